/*
 * bcryptprimitives.dll, which Wine 8 does not have: the one function of it that programs in Rust want. For tests only.
 */
#include <windows.h>

/* Its documented name is RtlGenRandom. */
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(BYTE *buffer, SIZE_T length)
{
    return SystemFunction036(buffer, (ULONG)length);
}
