/**
 * The control protocol: what a running domain answers on its control socket. Shared by both ends.
 *
 * A request and its answer are one line each: a JSON object in UTF-8 that ends with a newline.
 *   request  {"version":1,"id":7,"method":"stats","params":{}}
 *   answer   {"version":1,"id":7,"result":{...}}   or   {"version":1,"id":7,"error":{"code":"...","message":"..."}}
 * `id` is a number or a string of the client's choice and comes back as it was; it is null in answers to what could not
 * be read as a request. Requests of a connection are answered one after the other, in order.
 *
 * Methods:
 *   info         DomainInfo
 *   stats        Stats
 *   destroy      {}; the connection ends when the domain is gone
 *   shutdown     params.kind: poweroff, reboot or halt; params.timeoutMs, default 60,000, for the guest's acknowledgement;
 *                params.wait: answer when the domain has ended. {}, or {"end": how} when it has
 *   pause        {}, when nothing of the guest runs any more
 *   unpause      {}, when all of it does again
 *   mem-set      params.mib: memory that the guest is to have, in MiB. {}, when it has been told
 *   mem-max      params.mib: memory that the guest may have, in MiB. {}
 *   vcpu-set     params.vcpus: how many are to be online. {}, when it has been told
 *   block-attach params.disk: as in xl's disk=; params.directory: where its path is relative to. {}, when it is offered
 *   block-detach params.device: name or number; params.force: do not wait for the guest. {}, when it is gone
 *   block-list   BlockInfo[]
 *   sysrq        params.key: one character. {}, when it has been told
 *   console      params.history: whether to begin with what was said before (default true). {}; behind the answer's
 *                newline the connection is the guest's console, bytes both ways, and nothing else any more
 *   trace-start  params.file: absolute path. {}
 *   trace-stop   TraceSummary
 * A paused domain answers all of them; shutdown is refused. Methods are added without a new version: a domain that is
 * older than its client says unknown-method.
 */
import type { Stats } from '../translate/stats';
import type { TraceSummary } from '../translate/trace';
import type { BlockInfo } from './disks/block-devices';
import type { DomainEnd } from './domain';
import type { DomainInfo } from './domain-info';
import type { ShutdownKind } from './guest-control';

export const CONTROL_VERSION = 1;
/** Bytes of a request line at most, newline included. */
export const MAX_REQUEST = 65_536;
/** Bytes of an answer line at most; statistics are some 10 KiB. */
export const MAX_ANSWER = 16 * 2 ** 20;

export type ControlErrorCode =
  /** Not JSON, or not an object with an id and a method. */
  | 'bad-request'
  /** `version` is not one that this domain speaks. */
  | 'unsupported-version'
  | 'unknown-method'
  /** `params` is not what the method takes. */
  | 'bad-params'
  /** The line is longer than MAX_REQUEST; the connection is closed. */
  | 'too-large'
  /** The domain is being built, or is ending. */
  | 'not-running'
  /** pause or shutdown of a domain that is not running, unpause of one that is not paused. */
  | 'wrong-state'
  /** shutdown, block-detach: the guest has said that it can be asked, and has not done it. */
  | 'not-acknowledged'
  /** shutdown: the guest has said nothing of that, nor acknowledged. */
  | 'not-listening'
  | 'failed';

export class ControlError extends Error {
  override readonly name = 'ControlError';
  constructor(
    readonly code: ControlErrorCode | 'closed' | 'timeout' | 'bad-answer',
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

export type RequestId = number | string;

export interface ControlRequest {
  readonly id: RequestId;
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>>;
}

/** What each method takes and gives. */
export interface ControlMethods {
  info: { params: Record<string, never>; result: DomainInfo };
  stats: { params: Record<string, never>; result: Stats };
  destroy: { params: Record<string, never>; result: Record<string, never> };
  shutdown: {
    params: { kind: ShutdownKind; wait?: boolean; timeoutMs?: number };
    result: { end?: DomainEnd['kind'] };
  };
  pause: { params: Record<string, never>; result: Record<string, never> };
  unpause: { params: Record<string, never>; result: Record<string, never> };
  'mem-set': { params: { mib: number }; result: Record<string, never> };
  'mem-max': { params: { mib: number }; result: Record<string, never> };
  'vcpu-set': { params: { vcpus: number }; result: Record<string, never> };
  'block-attach': { params: { disk: string; directory: string }; result: Record<string, never> };
  'block-detach': { params: { device: string; force?: boolean }; result: Record<string, never> };
  'block-list': { params: Record<string, never>; result: readonly BlockInfo[] };
  sysrq: { params: { key: string }; result: Record<string, never> };
  console: { params: { history?: boolean }; result: Record<string, never> };
  'trace-start': { params: { file: string }; result: Record<string, never> };
  'trace-stop': { params: Record<string, never>; result: TraceSummary };
}

export type ControlMethod = keyof ControlMethods;

export const CONTROL_METHODS: readonly ControlMethod[] = [
  'info',
  'stats',
  'destroy',
  'shutdown',
  'pause',
  'unpause',
  'mem-set',
  'mem-max',
  'vcpu-set',
  'block-attach',
  'block-detach',
  'block-list',
  'sysrq',
  'console',
  'trace-start',
  'trace-stop',
];

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A value that came as JSON, as an id; undefined if it is none. */
function requestId(value: unknown): RequestId | undefined {
  if (typeof value === 'number' && Number.isFinite(value)) return value;
  return typeof value === 'string' && value.length <= 256 ? value : undefined;
}

/** The id of what may be a request, for an answer that says what is wrong with it. */
export function idOf(value: unknown): RequestId | null {
  return (isObject(value) ? requestId(value['id']) : undefined) ?? null;
}

/** Parses one line. Throws SyntaxError for what is not JSON. */
export function parseLine(line: Uint8Array): unknown {
  const text = new TextDecoder('utf-8', { fatal: false }).decode(line);
  return JSON.parse(text) as unknown;
}

/** Checks a parsed request. Throws ControlError. */
export function checkRequest(value: unknown): ControlRequest {
  if (!isObject(value)) throw new ControlError('bad-request', 'a request is a JSON object');
  const { version, method, params } = value;
  if (version !== CONTROL_VERSION) {
    throw new ControlError(
      'unsupported-version',
      `version ${JSON.stringify(version) ?? 'missing'}: this domain speaks version ${CONTROL_VERSION}`,
    );
  }
  const id = requestId(value['id']);
  if (id === undefined) throw new ControlError('bad-request', 'id: wanted a number or a string');
  if (typeof method !== 'string') throw new ControlError('bad-request', 'method: wanted a string');
  if (params !== undefined && !isObject(params)) throw new ControlError('bad-params', 'params: wanted an object');
  return { id, method, params: params ?? {} };
}

export function encodeLine(value: unknown): Buffer {
  return Buffer.from(`${JSON.stringify(value)}\n`);
}
