/** What the kvm engine and `--engine auto` decide, on KVMs that this machine does not have: a made-up one answers ioctls. */
import { closeSync, openSync, readdirSync } from 'node:fs';
import { HV_CPUID_LEAF, HV_FEATURES_EAX } from '../../../abi/hyperv';
import { chooseEngine, EngineUnfitError } from '../../../shim/partition/engines';
import { KVM_CAP, KVM_REQUEST, KvmCpuid2, KvmCpuidEntry2 } from '../../../shim/partition/kvm/abi';
import { KvmPartition } from '../../../shim/partition/kvm/kvm-partition';
import { probeKvm } from '../../../shim/partition/kvm/probe';

interface FakeKvm {
  version: number;
  caps: Record<number, number>;
  /** Leaf 0x40000003. */
  features: { eax: number; ebx: number; edx: number };
  /** Errno of requests that fail. */
  failing: Record<number, string>;
  /** Of the measured loop, for a turn. */
  ticksPerTurn: number;
}

const ALL = 0xffff_ffff;
let kvm: FakeKvm;
/** Ioctls made, by request. */
let made: number[];

beforeEach(() => {
  made = [];
  kvm = {
    version: 12,
    caps: { ...Object.fromEntries(Object.values(KVM_CAP).map((cap) => [cap, 1])), [KVM_CAP.KVM_CAP_MAX_VCPUS]: 288 },
    features: { eax: ALL, ebx: ALL, edx: ALL },
    failing: {},
    ticksPerTurn: 2,
  };
});

jest.mock('../../../shim/partition/kvm/libc', () => {
  const actual = jest.requireActual(
    '../../../shim/partition/kvm/libc',
  ) as typeof import('../../../shim/partition/kvm/libc');
  const descriptor = () => openSync('/dev/null', 'r+');
  return {
    ...actual,
    eventfd: descriptor,
    assign: (target: unknown) => target,
    instance: () => ({ ref: () => Buffer.alloc(0) }),
    ioctl: (_fd: number, name: string, request: number, argument: number | Buffer = 0): number => {
      made.push(request);
      const failure = kvm.failing[request];
      if (failure !== undefined) throw new actual.SystemCallError(name, failure);
      switch (request) {
        case KVM_REQUEST.KVM_GET_API_VERSION:
          return kvm.version;
        case KVM_REQUEST.KVM_CHECK_EXTENSION:
          return kvm.caps[argument as number] ?? 0;
        case KVM_REQUEST.KVM_CREATE_VM:
        case KVM_REQUEST.KVM_CREATE_VCPU:
          return descriptor();
        case KVM_REQUEST.KVM_GET_SUPPORTED_CPUID:
        case KVM_REQUEST.KVM_GET_SUPPORTED_HV_CPUID: {
          const bytes = argument as Buffer;
          const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
          KvmCpuid2.set.nent(view, 0, 1);
          const { set } = KvmCpuidEntry2;
          set.function(view, KvmCpuid2.size, HV_CPUID_LEAF.HYPERV_CPUID_FEATURES);
          set.eax(view, KvmCpuid2.size, kvm.features.eax >>> 0);
          set.ebx(view, KvmCpuid2.size, kvm.features.ebx >>> 0);
          set.edx(view, KvmCpuid2.size, kvm.features.edx >>> 0);
          return 0;
        }
        default:
          return 0;
      }
    },
  };
});

jest.mock('../../../shim/partition/host', () => ({
  ...(jest.requireActual('../../../shim/partition/host') as object),
  /** Runs the loop that is measured, in no time. */
  Machine: class FakeMachine {
    constructor(
      private readonly description: { regions: { buffer: ArrayBuffer; offset: number }[] },
      private readonly onDoorbell: () => void,
      private readonly onExit: (end: object) => void,
    ) {}
    static kvm(...given: ConstructorParameters<typeof FakeMachine>): FakeMachine {
      return new FakeMachine(...given);
    }
    start(): void {
      const [region] = this.description.regions;
      if (region === undefined) throw new Error('no memory');
      new DataView(region.buffer, region.offset).setBigUint64(0x5000, BigInt(kvm.ticksPerTurn * 5000), true);
      setImmediate(this.onDoorbell);
    }
    stop(): void {
      setImmediate(() => this.onExit({ kind: 1, vp: 0, code: 0, detail: 0 }));
    }
  },
}));

/** The engine is Linux's alone. */
const onLinux = process.platform === 'linux' ? describe : describe.skip;

/** /dev/null stands for the device: it can be opened everywhere. */
const device = '/dev/null';

onLinux('the probe', () => {
  const descriptors = () => readdirSync('/proc/self/fd').length;
  /** How many more there are once others (a module that is being read, then or now) have closed theirs. */
  const descriptorsLeft = async (before: number): Promise<number> => {
    for (let i = 0; i < 100 && descriptors() > before; i++) await new Promise((resolve) => setTimeout(resolve, 10));
    return Math.max(descriptors() - before, 0);
  };

  test('a KVM with everything, on hardware', async () => {
    // The first one loads what it needs.
    await probeKvm({ device });
    const before = descriptors();
    expect(await probeKvm({ device })).toEqual({
      impossible: undefined,
      unfit: undefined,
      hyperv: true,
      maxVps: 288,
      ticksPerTurn: 2,
    });
    expect(await descriptorsLeft(before)).toBe(0);
  });

  test.each(['KVM_CAP_IRQFD', 'KVM_CAP_SPLIT_IRQCHIP', 'KVM_CAP_IMMEDIATE_EXIT'] as const)(
    'without %s it cannot be used at all',
    async (name) => {
      kvm.caps[KVM_CAP[name]] = 0;
      expect((await probeKvm({ device })).impossible).toBe(`this KVM lacks ${name}`);
    },
  );

  test.each([
    'KVM_CAP_HYPERV',
    'KVM_CAP_HYPERV_CPUID',
    'KVM_CAP_HYPERV_VP_INDEX',
    'KVM_CAP_HYPERV_SYNIC2',
    'KVM_CAP_HYPERV_EVENTFD',
    'KVM_CAP_HYPERV_TLBFLUSH',
    'KVM_CAP_HYPERV_SEND_IPI',
  ] as const)('without %s it is unfit', async (name) => {
    kvm.caps[KVM_CAP[name]] = 0;
    expect(await probeKvm({ device })).toMatchObject({
      impossible: undefined,
      unfit: `this KVM does not emulate Hyper-V (it lacks ${name})`,
      hyperv: false,
    });
  });

  test('with capabilities, but without a feature that the trap module needs', async () => {
    kvm.features.eax &= ~HV_FEATURES_EAX.HV_MSR_SYNTIMER_AVAILABLE;
    expect((await probeKvm({ device })).unfit).toBe(
      'this KVM does not emulate Hyper-V (it lacks HV_MSR_SYNTIMER_AVAILABLE)',
    );
  });

  test('a ring 0 that is interpreted', async () => {
    kvm.ticksPerTurn = 4000;
    expect((await probeKvm({ device })).unfit).toBe(
      'ring 0 is interpreted, not executed (2000 clock ticks an instruction)',
    );
    kvm.caps[KVM_CAP.KVM_CAP_HYPERV] = 0;
    expect((await probeKvm({ device })).unfit).toMatch(/does not emulate Hyper-V .*; ring 0 is interpreted/);
  });

  test('a nested KVM is slower than hardware, and fit', async () => {
    kvm.ticksPerTurn = 20;
    expect((await probeKvm({ device })).unfit).toBeUndefined();
  });

  test('ring 0 is not measured where it does not matter any more', async () => {
    kvm.caps[KVM_CAP.KVM_CAP_HYPERV] = 0;
    expect((await probeKvm({ device, measure: 'if-fit' })).ticksPerTurn).toBeUndefined();
    expect(made).not.toContain(KVM_REQUEST.KVM_CREATE_VCPU);
  });

  test('another version of the interface', async () => {
    kvm.version = 13;
    expect((await probeKvm({ device })).impossible).toBe('/dev/null speaks KVM API 13: 12 is wanted');
  });

  test.each([
    ['KVM_CREATE_VM', KVM_REQUEST.KVM_CREATE_VM, 'EBUSY'],
    ['KVM_CREATE_VCPU', KVM_REQUEST.KVM_CREATE_VCPU, 'ENOMEM'],
  ])('%s fails: the reason, and no descriptor is left', async (name, request, errno) => {
    const before = descriptors();
    kvm.failing[request] = errno;
    expect((await probeKvm({ device })).impossible).toBe(`KVM refuses a virtual machine: ${name}: ${errno}`);
    expect(await descriptorsLeft(before)).toBe(0);
  });
});

onLinux('start() of a partition', () => {
  const start = async (vpCount: number): Promise<string> => {
    const before = readdirSync('/proc/self/fd').length;
    const partition = new KvmPartition({ memoryBytes: 2 ** 24, vpCount, hyperv: true, device });
    const error = await partition.start({ doorbell: () => undefined, exit: () => undefined }).then(
      () => undefined,
      (reason: Error) => reason,
    );
    await partition.stop();
    await partition.memory.release();
    expect(readdirSync('/proc/self/fd').length).toBe(before);
    expect(error?.name).toBe('KvmUnusableError');
    return error?.message ?? '';
  };

  test('more VPs than KVM gives a machine', async () => {
    kvm.caps[KVM_CAP.KVM_CAP_MAX_VCPUS] = 8;
    expect(await start(9)).toBe('9 virtual processors: this KVM gives a machine at most 8');
    // Old ones say only what they recommend.
    kvm.caps[KVM_CAP.KVM_CAP_MAX_VCPUS] = 0;
    kvm.caps[KVM_CAP.KVM_CAP_NR_VCPUS] = 4;
    expect(await start(5)).toBe('5 virtual processors: this KVM gives a machine at most 4');
  });

  test.each([
    ['KVM_CREATE_VM', 'ENOMEM'],
    ['KVM_SET_TSS_ADDR', 'EINVAL'],
    ['KVM_ENABLE_CAP', 'EINVAL'],
    ['KVM_CREATE_VCPU', 'EEXIST'],
    ['KVM_SET_CPUID2', 'E2BIG'],
    ['KVM_SET_SREGS', 'EINVAL'],
    ['KVM_SET_MP_STATE', 'EINVAL'],
    ['KVM_SET_GSI_ROUTING', 'EINVAL'],
    ['KVM_IRQFD', 'EBADF'],
    ['KVM_HYPERV_EVENTFD', 'EEXIST'],
    ['KVM_GET_STATS_FD', 'EMFILE'],
  ] as const)('%s fails at any point of the set-up: it is named, and everything is closed', async (name, errno) => {
    kvm.failing[KVM_REQUEST[name]] = errno;
    expect(await start(2)).toMatch(new RegExp(`^KVM refuses the partition: ${name}.*: ${errno}$`));
  });
});

onLinux('the choice of an engine', () => {
  const open = jest.requireActual('node:fs') as typeof import('node:fs');
  const there = (() => {
    try {
      closeSync(open.openSync('/dev/kvm', 'r+'));
      return true;
    } catch {
      return false;
    }
  })();
  const withDevice = there ? test : test.skip;
  const why = there ? '' : ': /dev/kvm cannot be opened here';

  withDevice(`auto takes kvm where it is fit, else qemu, and says why${why}`, async () => {
    expect(await chooseEngine('auto')).toMatchObject({ name: 'kvm', why: '/dev/kvm is fit for it', onHostCpu: true });
    kvm.ticksPerTurn = 4000;
    expect(await chooseEngine('auto')).toMatchObject({
      name: 'qemu',
      why: expect.stringMatching(/^the kvm engine will not do: ring 0 is interpreted/) as string,
      onHostCpu: false,
    });
    kvm.failing[KVM_REQUEST.KVM_CREATE_VM] = 'EBUSY';
    expect(await chooseEngine('auto')).toMatchObject({
      name: 'qemu',
      why: 'the kvm engine will not do: KVM refuses a virtual machine: KVM_CREATE_VM: EBUSY',
    });
  });

  withDevice(`kvm by name: refused where it is unfit, unless forced; never where it is impossible${why}`, async () => {
    expect(await chooseEngine('kvm')).toMatchObject({ name: 'kvm', why: 'asked for' });
    kvm.caps[KVM_CAP.KVM_CAP_HYPERV] = 0;
    await expect(chooseEngine('kvm')).rejects.toThrow(EngineUnfitError);
    await expect(chooseEngine('kvm')).rejects.toThrow(
      "the kvm engine is not fit for use here: this KVM does not emulate Hyper-V (it lacks KVM_CAP_HYPERV). '--engine qemu' works; --force runs it nevertheless, for tests",
    );
    expect(await chooseEngine('kvm', true)).toMatchObject({
      name: 'kvm',
      why: 'forced, although this KVM does not emulate Hyper-V (it lacks KVM_CAP_HYPERV)',
    });
    kvm.caps[KVM_CAP.KVM_CAP_IRQFD] = 0;
    await expect(chooseEngine('kvm', true)).rejects.toThrow(
      'the kvm engine cannot be used: this KVM lacks KVM_CAP_IRQFD',
    );
  });
});
