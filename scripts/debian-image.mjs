#!/usr/bin/env node
/*
 * Makes the Debian image if it is not in the cache, and prints where its parts are, as JSON. With --cached it makes
 * nothing: without an image it prints "null".
 */
import { cachedDebianImage, debianImage } from './lib/debian/image.mjs';
import { runMain } from './lib/progress.mjs';

runMain(async () => {
  const made = process.argv.includes('--cached') ? (cachedDebianImage() ?? null) : await debianImage();
  process.stdout.write(`${JSON.stringify(made)}\n`);
});
