/**
 * The Windows Hypervisor Platform's C interface, as far as running VPs takes it. One file per concept.
 *
 * Quirks: these are the host's structs, not the guest's: the trap module does not see them, so abi/hyperv/index does not
 * export them.
 */
export * from './codes';
export * from './counters';
export * from './cpuid';
export * from './exits';
export * from './features';
export * from './hresult';
export * from './registers';
export * from './signals';
