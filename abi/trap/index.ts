/** The trap module's interface, shared by native/trap (generated header) and the shim. See blocks.ts. */
export * from './blocks';
export * from './constants';
