#!/usr/bin/env node
'use strict';
/* Run by a package's install script in that package's directory: does the shipped binary load through its own code? */
const { spawnSync } = require('node:child_process');

const check = spawnSync(process.execPath, ['-e', 'require(process.cwd())'], { stdio: 'inherit' });
if (check.error) throw check.error;
process.exit(check.status === 0 ? 0 : 1);
