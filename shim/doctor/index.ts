/** `xenlighten doctor` without its printing: all checks, in the order in which they are told. */
import type { Check } from './check';
import { ENGINE_CHECKS } from './engine-checks';
import { HOST_CHECKS } from './host-checks';
import { WINDOWS_CHECKS } from './windows-checks';

export const CHECKS: readonly Check[] = [...HOST_CHECKS, ...WINDOWS_CHECKS, ...ENGINE_CHECKS];
