// PostgreSQL's frontend/backend protocol, version 3, as far as this server needs it: pure, no I/O.

const START_BYTES = 8;
const SSL_REQUEST = 80877103;
const GSS_REQUEST = 80877104;
const CANCEL_REQUEST = 80877102;

export const idle = "I".charCodeAt(0);

/** Return one message: its type's letter, its length, its parts. */
export function message(type, ...parts) {
  const body = Buffer.concat(parts);
  const head = Buffer.alloc(5);
  head.write(type, 0, "latin1");
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

export const text = (value) => Buffer.from(`${value}\0`);

export function int32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

export const query = (sql) => message("Q", text(sql));

export const typeOf = (bytes) => String.fromCharCode(bytes[0]);

export function failure(sqlState, reason) {
  const fields = [["S", "FATAL"], ["V", "FATAL"], ["C", sqlState], ["M", reason]];
  return message("E", ...fields.map(([key, value]) => text(key + value)), Buffer.alloc(1));
}

/** Greet a client that has sent its startup message: everybody may come in. */
export function welcome(parameters) {
  return Buffer.concat([
    message("R", int32(0)),
    ...Object.entries(parameters).map(([name, value]) => message("S", text(name), text(value))),
    message("K", int32(0), int32(0)), // pg_backend_pid() is 0 too: no pooler stands in between
    ready(idle),
  ]);
}

export const ready = (status) => message("Z", Buffer.from([status]));

/** Split a stream of bytes into messages; the first ones, before the session, have no type. */
export class Splitter {
  #bytes = Buffer.alloc(0);
  #started = false;

  push(bytes) {
    this.#bytes = this.#bytes.length ? Buffer.concat([this.#bytes, bytes]) : bytes;
  }

  /** Return {kind: "start"|"refuse-encryption"|"cancel"|"message", bytes}, or null until more has come. */
  next() {
    const from = this.#started ? 1 : 0;
    if (this.#bytes.length < (this.#started ? 5 : START_BYTES)) return null;
    const end = from + this.#bytes.readInt32BE(from);
    if (this.#bytes.length < end) return null;
    const bytes = this.#bytes.subarray(0, end);
    this.#bytes = this.#bytes.subarray(end);
    if (this.#started) return { kind: "message", bytes };
    const code = bytes.readInt32BE(4);
    if (code === SSL_REQUEST || code === GSS_REQUEST) return { kind: "refuse-encryption", bytes };
    if (code === CANCEL_REQUEST) return { kind: "cancel", bytes };
    this.#started = true;
    return { kind: "start", bytes };
  }
}

/** Walk over the messages in an answer of the backend. */
export function* messages(answer) {
  for (let at = 0; at + 5 <= answer.length; ) {
    const end = at + 1 + answer.readInt32BE(at + 1);
    yield answer.subarray(at, end);
    at = end;
  }
}

/** Return a named statement's message with the name made unique to its connection, other messages as they are. */
export function withOwnName(bytes, prefix) {
  const type = typeOf(bytes);
  let at;
  if (type === "P") at = 5;
  else if (type === "B") at = bytes.indexOf(0, 5) + 1; // behind the portal's name
  else if ((type === "D" || type === "C") && bytes[5] === "S".charCodeAt(0)) at = 6;
  else return bytes;
  if (bytes[at] === 0) return bytes; // the unnamed statement
  return message(type, bytes.subarray(5, at), Buffer.from(prefix), bytes.subarray(at));
}

/** Return what to run for a query: "deallocate all" would take the other connections' statements too. */
export function harmless(bytes) {
  const sql = bytes.toString("utf8", 5, bytes.length - 1);
  return /^\s*deallocate\s+all\s*;?\s*$/i.test(sql) ? query("discard sequences") : bytes;
}

/** Return the CopyInResponse to a "copy … from stdin", or null if the query is something else. */
export function copyInResponse(bytes) {
  const sql = bytes.toString("utf8", 5, bytes.length - 1);
  const match = /^\s*copy\s+[^;(]*(\([^)]*\))?\s*from\s+stdin/i.exec(sql);
  if (!match) return null;
  const columns = match[1] ? match[1].split(",").length : 0;
  const format = /\bbinary\b/i.test(sql) ? 1 : 0;
  const body = Buffer.alloc(3 + 2 * columns);
  body[0] = format;
  body.writeInt16BE(columns, 1);
  for (let column = 0; column < columns; column += 1) body.writeInt16BE(format, 3 + 2 * column);
  return message("G", body);
}
