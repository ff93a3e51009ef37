'use strict';
/*
 * A domain that is only a console, for scripts/lib/wine-console.mjs: it greets with colours and letters that are not
 * ASCII, and says in hexadecimal what is typed. Serves a control pipe as a guest does, until it is ended.
 *
 *   node console-guest.js NAME FILE      FILE is written when the pipe is there
 */
const { writeFileSync } = require('node:fs');
const path = require('node:path');

const { ControlSocket } = require(path.resolve(__dirname, '../../dist/shim/domain/control-socket.js'));

const [name, ready] = process.argv.slice(2);
const GREETING = 'hello \x1b[31mred\x1b[0m \u00e4\r\n';

const viewers = new Set();
let typed = Buffer.alloc(0);
let timer;

const consoleOfGuest = {
  history: { bytes: () => Buffer.from(GREETING) },
  addViewer: (viewer) => void viewers.add(viewer),
  removeViewer: (viewer) => void viewers.delete(viewer),
  type(bytes) {
    typed = Buffer.concat([typed, bytes]);
    // Keys may come in pieces: said when nothing more has come.
    clearTimeout(timer);
    timer = setTimeout(() => {
      for (const viewer of viewers) viewer.show(Buffer.from(`[${typed.toString('hex')}]\r\n`));
      typed = Buffer.alloc(0);
    }, 100);
    return true;
  },
};

ControlSocket.open(name).then((socket) => {
  socket.control({ name, console: consoleOfGuest, ended: new Promise(() => undefined) });
  writeFileSync(ready, '');
  // The pipe alone keeps no process alive.
  setInterval(() => undefined, 1 << 30);
});
