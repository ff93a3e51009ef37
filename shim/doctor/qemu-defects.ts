/**
 * What QEMU's emulator (TCG) does wrong, as far as it matters to a guest of the qemu engine, and what xenlighten does
 * about it. Seen with QEMU 7.2; which later release has it mended was not tried, so all are told for every version.
 */
export interface QemuDefect {
  /** What is wrong. */
  readonly defect: string;
  /** What follows, or what is done about it; a line each. */
  readonly consequence: readonly string[];
}

export const QEMU_DEFECTS: readonly QemuDefect[] = [
  {
    defect: 'far calls, far returns and IRET use the stack with the rights of ring 0, whoever executes them',
    consequence: [
      'a program in the guest can write to the memory of the guest kernel and of the trap module;',
      'it stays in its QEMU, which has one domain',
    ],
  },
  {
    defect: 'the emulator is no security boundary, as its authors say',
    consequence: ['for guests that you trust: QEMU runs as you, under seccomp (SECURITY.md)'],
  },
  {
    defect: 'INT n that a gate forbids pushes a wrong error code',
    consequence: ['mended by the trap module, which looks at the instruction'],
  },
  {
    defect: 'with one possible processor, locked instructions are not atomic for other processes',
    consequence: ['avoided: QEMU is always told that there could be two'],
  },
  {
    defect: 'code that another process writes is not noticed',
    consequence: ['avoided: what a disk has read into a page that was executable is written once more, inside'],
  },
];
