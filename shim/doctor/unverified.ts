/**
 * What of the Windows side has only been seen on stand-ins, and what would show it on a real Windows: one list, of which
 * docs/windows-unverified.md is made, and which `xenlighten doctor --report` carries with its results.
 *
 * When somebody sends a report from a real Windows, what it shows is taken off this list.
 */
export interface Unverified {
  readonly id: string;
  readonly what: string;
  /** Where it has been seen instead. */
  readonly seen: string;
  /** Ids of self-tests, or of checks, whose results in a report show it; none: somebody must try it by hand. */
  readonly shownBy: readonly string[];
  /** What to do by hand. */
  readonly byHand?: string;
}

export const UNVERIFIED: readonly Unverified[] = [
  {
    id: 'capabilities',
    what: 'what WHvGetCapability answers, and that it is enough for the trap module',
    seen: 'the stand-in, which answers what this KVM can do',
    shownBy: ['whp'],
  },
  {
    id: 'set-up',
    what: 'that a partition takes the properties that are set, in their order',
    seen: "the stand-in; layouts and numbers are compared with Microsoft's headers",
    shownBy: ['whp', 'ring0'],
  },
  {
    id: 'run-loop',
    what: 'exits: the instruction that an exit context points at, and how port I/O is completed',
    seen: 'the stand-in, with the semantics that the documentation gives',
    shownBy: ['ring0'],
  },
  {
    id: 'first-touch',
    what: 'that memory which a guest touches for the first time is an exit, and WHvAdviseGpaRange lets it go on',
    seen: 'the stand-in, for the first instruction of each virtual processor and for single pages; others report it from Windows',
    shownBy: ['ring0'],
  },
  {
    id: 'exit-cost',
    what: 'what an exit costs',
    seen: 'nowhere',
    shownBy: ['ring0'],
  },
  {
    id: 'cancel',
    what: 'WHvCancelRunVirtualProcessor against a virtual processor that never leaves the guest',
    seen: 'the stand-in',
    shownBy: ['cancel'],
  },
  {
    id: 'several-processors',
    what: 'several virtual processors, all started at once',
    seen: 'the stand-in',
    shownBy: ['processors'],
  },
  {
    id: 'synthetic-msrs',
    what: 'CPUID leaves 0x40000000 and following that the hypervisor answers itself; synthetic MSRs in a partition: reference time, VP index; whether they exit',
    seen: "KVM's Hyper-V emulation, under the engine kvm; a Windows that has the interface and does not say so in CPUID, on the stand-in",
    shownBy: ['synthetic-msrs'],
  },
  {
    id: 'doorbell',
    what: 'HvCallSignalEvent with a flag on a notification port, from ring 0',
    seen: "KVM's Hyper-V emulation, under the engine kvm",
    shownBy: ['doorbell'],
  },
  {
    id: 'kick',
    what: 'SynIC event flags by WHvSignalVirtualProcessorSynicEvent or a trigger',
    seen: "KVM's Hyper-V emulation, under the engine kvm",
    shownBy: ['kick'],
  },
  {
    id: 'memory',
    what: 'committed guest memory of several GiB on Node.js 20, MEM_RESET, the commit limit',
    seen: "Wine, whose memory is Linux's",
    shownBy: ['memory'],
  },
  {
    id: 'timers',
    what: "how late Node.js's timers are; Windows' clock interrupt comes every 15.6 ms unless a process wants 1 ms, as one with a guest does",
    seen: 'nowhere',
    shownBy: ['timers'],
  },
  {
    id: 'features',
    what: 'the messages about features, firmware, boot option, elevation and policy',
    seen: 'unit tests, with hosts that are made up',
    shownBy: ['windows-feature', 'windows-hypervisor', 'windows-launch-type', 'windows-elevation', 'windows-policy'],
    byHand: 'run `xenlighten doctor` before and after each step of docs/windows.md, and compare',
  },
  {
    id: 'meltdown',
    what: 'whether Windows says that the processor is open to Meltdown',
    seen: 'unit tests',
    shownBy: ['guest-ring'],
  },
  {
    id: 'control-access',
    what: 'that nobody else can enter the control directory, and that pipes refuse other users',
    seen: 'Wine, which has one user: the access list of a pipe',
    shownBy: ['control-privacy', 'control-pipe'],
    byHand: 'run a guest; as another user, who is no administrator, try `xenlighten list` and to write to its pipe',
  },
  {
    id: 'console',
    what: 'the console: raw keys, colours and cursor movements, Ctrl-C, Ctrl-Break, closing the window, logging off',
    seen: 'on the console of Wine: keys, colours, Ctrl-]; the rest by unit tests',
    shownBy: [],
    byHand:
      'run a guest in Windows Terminal and in conhost: top, vi, Ctrl-C, Ctrl-]; then Ctrl-Break, then close the window',
  },
  {
    id: 'images',
    what: 'disk images on NTFS and ReFS: locks, flushes, holes (sparse files), --snapshot, differencing disks beside those of Hyper-V',
    seen: 'Wine: locks, `image create` and `image info`; holes nowhere, since Wine refuses them',
    shownBy: [],
    byHand: 'run a guest from a VHD, and mount the VHD with Mount-VHD afterwards',
  },
  {
    id: 'install',
    what: "installation by npm in PowerShell and cmd.exe, with the packages' install scripts",
    seen: 'Wine',
    shownBy: ['addon', 'trap-module'],
    byHand: 'follow docs/windows.md on a fresh server',
  },
  {
    id: 'guests',
    what: 'guests: that Linux boots, runs under load, with several vCPUs, in both rings, and powers off',
    seen: 'KVM, with and without its Hyper-V emulation; QEMU',
    shownBy: [],
    byHand: 'docs/windows.md, "A guest"; then the same with --vcpus 4 and with --guest-ring 3',
  },
];
