/**
 * Our end of the serial port that is doorbell and kick: one stream socket, whose bytes mean nothing.
 *
 * Reading goes through Node's event loop with one small buffer that is used again and again; sending is one system call,
 * because a kick is on the path of every cold hypercall and a stream's write() costs several times as much.
 */
import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';
import { sendByte } from '../host';

export class Bell {
  private readonly socket: Socket;
  private open = true;

  /** Takes over the descriptor. `ring` is called once for all bytes that have arrived. */
  constructor(
    private readonly fd: number,
    ring: () => void,
  ) {
    // The constructor takes `onread` as connect() does, though its declared type does not say so.
    const options: SocketConstructorOpts & { onread: OnReadOpts } = {
      fd,
      readable: true,
      writable: true,
      onread: {
        buffer: new Uint8Array(4096),
        callback: () => {
          if (this.open) ring();
          return true;
        },
      },
    };
    this.socket = new Socket(options);
    // The partition's end shows as its process's exit; the socket only has to be put away then.
    this.socket.on('error', () => this.close());
    this.socket.on('end', () => this.close());
    this.socket.resume();
  }

  /** A full buffer means that kicks are waiting to be taken: one more would say nothing new. */
  kick(): void {
    if (this.open) sendByte(this.fd);
  }

  close(): void {
    if (!this.open) return;
    this.open = false;
    this.socket.destroy();
  }
}
