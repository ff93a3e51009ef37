/**
 * The CPUID leaves by which the Microsoft hypervisor's interface is recognised, as the engines that provide them do it.
 * Implements TLFS "Feature and Interface Discovery".
 */
import { HV_CPUID_LEAF } from '../../abi/hyperv';
import type { CpuidEntry } from './partition';

/** A leaf without subleaves. */
export function cpuidLeaf(leaf: number, eax: number, ebx = 0, ecx = 0, edx = 0): CpuidEntry {
  const [a, b, c, d] = [eax >>> 0, ebx >>> 0, ecx >>> 0, edx >>> 0];
  return { leaf, subleaf: 0, hasSubleaves: false, eax: a, ebx: b, ecx: c, edx: d };
}

/** Vendor, interface (Hv#1) and version, which nobody is told; `last`: the last leaf that there is. */
export function identityLeaves(last: number): CpuidEntry[] {
  const L = HV_CPUID_LEAF;
  const vendor = [L.HYPERV_SIGNATURE_EBX, L.HYPERV_SIGNATURE_ECX, L.HYPERV_SIGNATURE_EDX] as const;
  return [
    cpuidLeaf(L.HYPERV_CPUID_VENDOR_AND_MAX_FUNCTIONS, last, ...vendor),
    cpuidLeaf(L.HYPERV_CPUID_INTERFACE, L.HYPERV_INTERFACE_EAX),
    cpuidLeaf(L.HYPERV_CPUID_VERSION, 0),
  ];
}
