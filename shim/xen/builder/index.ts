/** The domain builder: what the rest of the shim uses of it. */
export { type BuildOptions, type BuiltDomain, buildDomain, type InitialVcpu, MAX_CMDLINE_BYTES } from './builder';
export { defaultCacheDirectory, KernelCache } from './cache';
export { hypercallPage } from './hypercall-page';
export { type Kernel, type KernelImage, type LoadOptions, loadKernel, readInput } from './image';
export { formatReport, inspectKernel, type KernelReport } from './inspect';
export { DomainMemory, type PfnRun, type PhysicalMemory } from './memory';
export { kernelSymbols, type NamedAddress, type SymbolSource, type SymbolTable } from './symbols';
