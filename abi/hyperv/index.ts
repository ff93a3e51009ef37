/** Everything of the Hyper-V ABI that xenlighten uses. One file per concept. */
export {};
