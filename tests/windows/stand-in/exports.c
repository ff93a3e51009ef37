/*
 * The exported functions, with the signatures of Microsoft's header: each counts its call, fails if a test asked for it,
 * does its work elsewhere, and logs.
 */
#include "stand-in.h"

/* Declares do_NAME and defines NAME. The log's arguments may contain commas: they are in parentheses. */
#define UNWRAP(...) __VA_ARGS__
#define EXPORT(name, parameters, arguments, format, logged)                                                            \
    HRESULT do_##name parameters;                                                                                      \
    HRESULT WINAPI name parameters                                                                                     \
    {                                                                                                                  \
        HRESULT result;                                                                                                \
        if (!stand_in_begin(#name, &result))                                                                           \
            result = do_##name arguments;                                                                              \
        return stand_in_end(#name, result, format, UNWRAP logged);                                                     \
    }

EXPORT(WHvGetCapability,
       (WHV_CAPABILITY_CODE CapabilityCode, void *CapabilityBuffer, UINT32 CapabilityBufferSizeInBytes,
        UINT32 *WrittenSizeInBytes),
       (CapabilityCode, CapabilityBuffer, CapabilityBufferSizeInBytes, WrittenSizeInBytes), "%llx %p %llx %p",
       ((UINT64)CapabilityCode, (const void *)CapabilityBuffer, (UINT64)CapabilityBufferSizeInBytes,
        (const void *)WrittenSizeInBytes))
EXPORT(WHvCreatePartition, (WHV_PARTITION_HANDLE * Partition), (Partition), "%p", ((const void *)Partition))
EXPORT(WHvSetupPartition, (WHV_PARTITION_HANDLE Partition), (Partition), "%p", ((const void *)Partition))
EXPORT(WHvResetPartition, (WHV_PARTITION_HANDLE Partition), (Partition), "%p", ((const void *)Partition))
EXPORT(WHvDeletePartition, (WHV_PARTITION_HANDLE Partition), (Partition), "%p", ((const void *)Partition))
EXPORT(WHvGetPartitionProperty,
       (WHV_PARTITION_HANDLE Partition, WHV_PARTITION_PROPERTY_CODE PropertyCode, void *PropertyBuffer,
        UINT32 PropertyBufferSizeInBytes, UINT32 *WrittenSizeInBytes),
       (Partition, PropertyCode, PropertyBuffer, PropertyBufferSizeInBytes, WrittenSizeInBytes), "%p %llx %p %llx %p",
       ((const void *)Partition, (UINT64)PropertyCode, (const void *)PropertyBuffer, (UINT64)PropertyBufferSizeInBytes,
        (const void *)WrittenSizeInBytes))
EXPORT(WHvSetPartitionProperty,
       (WHV_PARTITION_HANDLE Partition, WHV_PARTITION_PROPERTY_CODE PropertyCode, const void *PropertyBuffer,
        UINT32 PropertyBufferSizeInBytes),
       (Partition, PropertyCode, PropertyBuffer, PropertyBufferSizeInBytes), "%p %llx %p %llx",
       ((const void *)Partition, (UINT64)PropertyCode, (const void *)PropertyBuffer, (UINT64)PropertyBufferSizeInBytes))
EXPORT(WHvSuspendPartitionTime, (WHV_PARTITION_HANDLE Partition), (Partition), "%p", ((const void *)Partition))
EXPORT(WHvResumePartitionTime, (WHV_PARTITION_HANDLE Partition), (Partition), "%p", ((const void *)Partition))
EXPORT(WHvMapGpaRange,
       (WHV_PARTITION_HANDLE Partition, void *SourceAddress, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
        UINT64 SizeInBytes, WHV_MAP_GPA_RANGE_FLAGS Flags),
       (Partition, SourceAddress, GuestAddress, SizeInBytes, Flags), "%p %p %llx %llx %llx",
       ((const void *)Partition, (const void *)SourceAddress, (UINT64)GuestAddress, (UINT64)SizeInBytes, (UINT64)Flags))
EXPORT(WHvMapGpaRange2,
       (WHV_PARTITION_HANDLE Partition, HANDLE Process, void *SourceAddress, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
        UINT64 SizeInBytes, WHV_MAP_GPA_RANGE_FLAGS Flags),
       (Partition, Process, SourceAddress, GuestAddress, SizeInBytes, Flags), "%p %p %p %llx %llx %llx",
       ((const void *)Partition, (const void *)Process, (const void *)SourceAddress, (UINT64)GuestAddress,
        (UINT64)SizeInBytes, (UINT64)Flags))
EXPORT(WHvUnmapGpaRange, (WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 SizeInBytes),
       (Partition, GuestAddress, SizeInBytes), "%p %llx %llx",
       ((const void *)Partition, (UINT64)GuestAddress, (UINT64)SizeInBytes))
EXPORT(WHvTranslateGva,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_GUEST_VIRTUAL_ADDRESS Gva,
        WHV_TRANSLATE_GVA_FLAGS TranslateFlags, WHV_TRANSLATE_GVA_RESULT *TranslationResult,
        WHV_GUEST_PHYSICAL_ADDRESS *Gpa),
       (Partition, VpIndex, Gva, TranslateFlags, TranslationResult, Gpa), "%p %llx %llx %llx %p %p",
       ((const void *)Partition, (UINT64)VpIndex, (UINT64)Gva, (UINT64)TranslateFlags, (const void *)TranslationResult,
        (const void *)Gpa))
EXPORT(WHvCreateVirtualProcessor, (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Flags),
       (Partition, VpIndex, Flags), "%p %llx %llx", ((const void *)Partition, (UINT64)VpIndex, (UINT64)Flags))
EXPORT(WHvCreateVirtualProcessor2,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, const WHV_VIRTUAL_PROCESSOR_PROPERTY *Properties,
        UINT32 PropertyCount),
       (Partition, VpIndex, Properties, PropertyCount), "%p %llx %p %llx",
       ((const void *)Partition, (UINT64)VpIndex, (const void *)Properties, (UINT64)PropertyCount))
EXPORT(WHvDeleteVirtualProcessor, (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex), (Partition, VpIndex), "%p %llx",
       ((const void *)Partition, (UINT64)VpIndex))
EXPORT(WHvRunVirtualProcessor,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, void *ExitContext, UINT32 ExitContextSizeInBytes),
       (Partition, VpIndex, ExitContext, ExitContextSizeInBytes), "%p %llx %p %llx",
       ((const void *)Partition, (UINT64)VpIndex, (const void *)ExitContext, (UINT64)ExitContextSizeInBytes))
EXPORT(WHvCancelRunVirtualProcessor, (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Flags),
       (Partition, VpIndex, Flags), "%p %llx %llx", ((const void *)Partition, (UINT64)VpIndex, (UINT64)Flags))
EXPORT(WHvGetVirtualProcessorRegisters,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
        WHV_REGISTER_VALUE *RegisterValues),
       (Partition, VpIndex, RegisterNames, RegisterCount, RegisterValues), "%p %llx %p %llx %p",
       ((const void *)Partition, (UINT64)VpIndex, (const void *)RegisterNames, (UINT64)RegisterCount,
        (const void *)RegisterValues))
EXPORT(WHvSetVirtualProcessorRegisters,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
        const WHV_REGISTER_VALUE *RegisterValues),
       (Partition, VpIndex, RegisterNames, RegisterCount, RegisterValues), "%p %llx %p %llx %p",
       ((const void *)Partition, (UINT64)VpIndex, (const void *)RegisterNames, (UINT64)RegisterCount,
        (const void *)RegisterValues))
EXPORT(WHvRequestInterrupt,
       (WHV_PARTITION_HANDLE Partition, const WHV_INTERRUPT_CONTROL *Interrupt, UINT32 InterruptControlSize),
       (Partition, Interrupt, InterruptControlSize), "%p %p %llx",
       ((const void *)Partition, (const void *)Interrupt, (UINT64)InterruptControlSize))
EXPORT(WHvGetVirtualProcessorXsaveState,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, void *Buffer, UINT32 BufferSizeInBytes, UINT32 *BytesWritten),
       (Partition, VpIndex, Buffer, BufferSizeInBytes, BytesWritten), "%p %llx %p %llx %p",
       ((const void *)Partition, (UINT64)VpIndex, (const void *)Buffer, (UINT64)BufferSizeInBytes,
        (const void *)BytesWritten))
EXPORT(WHvSetVirtualProcessorXsaveState,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, const void *Buffer, UINT32 BufferSizeInBytes),
       (Partition, VpIndex, Buffer, BufferSizeInBytes), "%p %llx %p %llx",
       ((const void *)Partition, (UINT64)VpIndex, (const void *)Buffer, (UINT64)BufferSizeInBytes))
EXPORT(WHvQueryGpaRangeDirtyBitmap,
       (WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 RangeSizeInBytes,
        UINT64 *Bitmap, UINT32 BitmapSizeInBytes),
       (Partition, GuestAddress, RangeSizeInBytes, Bitmap, BitmapSizeInBytes), "%p %llx %llx %p %llx",
       ((const void *)Partition, (UINT64)GuestAddress, (UINT64)RangeSizeInBytes, (const void *)Bitmap,
        (UINT64)BitmapSizeInBytes))
EXPORT(WHvGetPartitionCounters,
       (WHV_PARTITION_HANDLE Partition, WHV_PARTITION_COUNTER_SET CounterSet, void *Buffer, UINT32 BufferSizeInBytes,
        UINT32 *BytesWritten),
       (Partition, CounterSet, Buffer, BufferSizeInBytes, BytesWritten), "%p %llx %p %llx %p",
       ((const void *)Partition, (UINT64)CounterSet, (const void *)Buffer, (UINT64)BufferSizeInBytes,
        (const void *)BytesWritten))
EXPORT(WHvGetVirtualProcessorCounters,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_PROCESSOR_COUNTER_SET CounterSet, void *Buffer,
        UINT32 BufferSizeInBytes, UINT32 *BytesWritten),
       (Partition, VpIndex, CounterSet, Buffer, BufferSizeInBytes, BytesWritten), "%p %llx %llx %p %llx %p",
       ((const void *)Partition, (UINT64)VpIndex, (UINT64)CounterSet, (const void *)Buffer, (UINT64)BufferSizeInBytes,
        (const void *)BytesWritten))
EXPORT(WHvGetVirtualProcessorInterruptControllerState2,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, void *State, UINT32 StateSize, UINT32 *WrittenSize),
       (Partition, VpIndex, State, StateSize, WrittenSize), "%p %llx %p %llx %p",
       ((const void *)Partition, (UINT64)VpIndex, (const void *)State, (UINT64)StateSize, (const void *)WrittenSize))
EXPORT(WHvSetVirtualProcessorInterruptControllerState2,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, const void *State, UINT32 StateSize),
       (Partition, VpIndex, State, StateSize), "%p %llx %p %llx",
       ((const void *)Partition, (UINT64)VpIndex, (const void *)State, (UINT64)StateSize))
EXPORT(WHvAdviseGpaRange,
       (WHV_PARTITION_HANDLE Partition, const WHV_MEMORY_RANGE_ENTRY *GpaRanges, UINT32 GpaRangesCount,
        WHV_ADVISE_GPA_RANGE_CODE Advice, const void *AdviceBuffer, UINT32 AdviceBufferSizeInBytes),
       (Partition, GpaRanges, GpaRangesCount, Advice, AdviceBuffer, AdviceBufferSizeInBytes),
       /* The first range in place of where it is. */
       "%p %llx+%llx %llx %llx %p %llx",
       ((const void *)Partition, GpaRangesCount &&GpaRanges ? GpaRanges->GuestAddress : 0,
        GpaRangesCount &&GpaRanges ? GpaRanges->SizeInBytes : 0, (UINT64)GpaRangesCount, (UINT64)Advice,
        (const void *)AdviceBuffer, (UINT64)AdviceBufferSizeInBytes))
EXPORT(WHvReadGpaRange,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
        WHV_ACCESS_GPA_CONTROLS Controls, void *Data, UINT32 DataSizeInBytes),
       (Partition, VpIndex, GuestAddress, Controls, Data, DataSizeInBytes), "%p %llx %llx %llx %p %llx",
       ((const void *)Partition, (UINT64)VpIndex, (UINT64)GuestAddress, Controls.AsUINT64, (const void *)Data,
        (UINT64)DataSizeInBytes))
EXPORT(WHvWriteGpaRange,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
        WHV_ACCESS_GPA_CONTROLS Controls, const void *Data, UINT32 DataSizeInBytes),
       (Partition, VpIndex, GuestAddress, Controls, Data, DataSizeInBytes), "%p %llx %llx %llx %p %llx",
       ((const void *)Partition, (UINT64)VpIndex, (UINT64)GuestAddress, Controls.AsUINT64, (const void *)Data,
        (UINT64)DataSizeInBytes))
EXPORT(WHvSignalVirtualProcessorSynicEvent,
       (WHV_PARTITION_HANDLE Partition, WHV_SYNIC_EVENT_PARAMETERS SynicEvent, BOOL *NewlySignaled),
       (Partition, SynicEvent, NewlySignaled), "%p %u/%u/%u %p",
       ((const void *)Partition, SynicEvent.VpIndex, SynicEvent.TargetSint, SynicEvent.FlagNumber,
        (const void *)NewlySignaled))
EXPORT(WHvGetVirtualProcessorState,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, void *Buffer,
        UINT32 BufferSizeInBytes, UINT32 *BytesWritten),
       (Partition, VpIndex, StateType, Buffer, BufferSizeInBytes, BytesWritten), "%p %llx %llx %p %llx %p",
       ((const void *)Partition, (UINT64)VpIndex, (UINT64)StateType, (const void *)Buffer, (UINT64)BufferSizeInBytes,
        (const void *)BytesWritten))
EXPORT(WHvSetVirtualProcessorState,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, const void *Buffer,
        UINT32 BufferSizeInBytes),
       (Partition, VpIndex, StateType, Buffer, BufferSizeInBytes), "%p %llx %llx %p %llx",
       ((const void *)Partition, (UINT64)VpIndex, (UINT64)StateType, (const void *)Buffer, (UINT64)BufferSizeInBytes))
EXPORT(WHvCreateTrigger,
       (WHV_PARTITION_HANDLE Partition, const WHV_TRIGGER_PARAMETERS *Parameters, WHV_TRIGGER_HANDLE *TriggerHandle,
        HANDLE *EventHandle),
       (Partition, Parameters, TriggerHandle, EventHandle), "%p %p %p %p",
       ((const void *)Partition, (const void *)Parameters, (const void *)TriggerHandle, (const void *)EventHandle))
EXPORT(WHvUpdateTriggerParameters,
       (WHV_PARTITION_HANDLE Partition, const WHV_TRIGGER_PARAMETERS *Parameters, WHV_TRIGGER_HANDLE TriggerHandle),
       (Partition, Parameters, TriggerHandle), "%p %p %p",
       ((const void *)Partition, (const void *)Parameters, (const void *)TriggerHandle))
EXPORT(WHvDeleteTrigger, (WHV_PARTITION_HANDLE Partition, WHV_TRIGGER_HANDLE TriggerHandle), (Partition, TriggerHandle),
       "%p %p", ((const void *)Partition, (const void *)TriggerHandle))
EXPORT(WHvCreateNotificationPort,
       (WHV_PARTITION_HANDLE Partition, const WHV_NOTIFICATION_PORT_PARAMETERS *Parameters, HANDLE EventHandle,
        WHV_NOTIFICATION_PORT_HANDLE *PortHandle),
       (Partition, Parameters, EventHandle, PortHandle), "%p %p %p %p",
       ((const void *)Partition, (const void *)Parameters, (const void *)EventHandle, (const void *)PortHandle))
EXPORT(WHvSetNotificationPortProperty,
       (WHV_PARTITION_HANDLE Partition, WHV_NOTIFICATION_PORT_HANDLE PortHandle,
        WHV_NOTIFICATION_PORT_PROPERTY_CODE PropertyCode, WHV_NOTIFICATION_PORT_PROPERTY PropertyValue),
       (Partition, PortHandle, PropertyCode, PropertyValue), "%p %p %llx %llx",
       ((const void *)Partition, (const void *)PortHandle, (UINT64)PropertyCode, (UINT64)PropertyValue))
EXPORT(WHvDeleteNotificationPort, (WHV_PARTITION_HANDLE Partition, WHV_NOTIFICATION_PORT_HANDLE PortHandle),
       (Partition, PortHandle), "%p %p", ((const void *)Partition, (const void *)PortHandle))
EXPORT(WHvPostVirtualProcessorSynicMessage,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 SintIndex, const void *Message,
        UINT32 MessageSizeInBytes),
       (Partition, VpIndex, SintIndex, Message, MessageSizeInBytes), "%p %llx %llx %p %llx",
       ((const void *)Partition, (UINT64)VpIndex, (UINT64)SintIndex, (const void *)Message, (UINT64)MessageSizeInBytes))
EXPORT(WHvGetVirtualProcessorCpuidOutput,
       (WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Eax, UINT32 Ecx, WHV_CPUID_OUTPUT *CpuidOutput),
       (Partition, VpIndex, Eax, Ecx, CpuidOutput), "%p %llx %llx %llx %p",
       ((const void *)Partition, (UINT64)VpIndex, (UINT64)Eax, (UINT64)Ecx, (const void *)CpuidOutput))
EXPORT(WHvGetInterruptTargetVpSet,
       (WHV_PARTITION_HANDLE Partition, UINT64 Destination, WHV_INTERRUPT_DESTINATION_MODE DestinationMode,
        UINT32 *TargetVps, UINT32 VpCount, UINT32 *TargetVpCount),
       (Partition, Destination, DestinationMode, TargetVps, VpCount, TargetVpCount), "%p %llx %llx %p %llx %p",
       ((const void *)Partition, (UINT64)Destination, (UINT64)DestinationMode, (const void *)TargetVps, (UINT64)VpCount,
        (const void *)TargetVpCount))
