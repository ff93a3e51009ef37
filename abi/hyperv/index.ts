/**
 * Everything of the Hyper-V ABI that xenlighten uses: TLFS structs, constants, MSRs, CPUID bits. One file per concept;
 * scripts/gen-headers turns what this module exports into native/include/abi/hyperv.h.
 */
export * from './cpuid';
export * from './flush';
export * from './hypercall';
export * from './ic';
export * from './ipi';
export * from './msr';
export * from './port';
export * from './reference-tsc';
export * from './start-vp';
export * from './status';
export * from './stimer';
export * from './storvsp';
export * from './synic';
export * from './vmbus';
export * from './vp-assist';
export * from './vp-registers';
export * from './vpset';
