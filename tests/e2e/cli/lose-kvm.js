'use strict';
/*
 * Preloaded into the command (NODE_OPTIONS): as soon as there is a second vCPU (the probe's machine has one), the first one's
 * descriptor becomes something else.
 */
const { closeSync, openSync, readdirSync, readlinkSync } = require('node:fs');

function vcpu(number) {
  return readdirSync('/proc/self/fd')
    .map(Number)
    .find((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).endsWith(`kvm-vcpu:${number}`);
      } catch {
        return false;
      }
    });
}

function look() {
  const lost = vcpu(0);
  if (lost === undefined || vcpu(1) === undefined) {
    setTimeout(look, 1).unref();
    return;
  }
  closeSync(lost);
  const others = [];
  // The lowest free number is taken: those below it first.
  for (let fd = openSync('/dev/null', 'r'); fd !== lost; fd = openSync('/dev/null', 'r')) others.push(fd);
  for (const fd of others) closeSync(fd);
}

look();
