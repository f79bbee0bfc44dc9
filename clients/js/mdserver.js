/**
 * Client of mdserver for browsers and Node (20 or newer), in one module without dependencies.
 *
 *     import { connect } from "http://127.0.0.1:8080/client.js";
 *     const client = connect("http://127.0.0.1:8080");
 *     for await (const record of client.stream(["EURUSD"])) console.log(record.time, record.bid);
 *
 * Times are Unix seconds, UTC. The types are in mdserver.d.ts.
 */

/** Base of all errors. `code` is the server's: a number of the WebSocket, a word of HTTP; else null. */
export class MdserverError extends Error {
  constructor(message, code = null) {
    super(message);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The server cannot be reached, or what answers is no mdserver. */
export class ConnectionFailed extends MdserverError {}

/** The other end speaks something else than the protocol, again and again. */
export class ProtocolViolation extends MdserverError {}

/** The server asks for a key, or does not take this one. */
export class NotAuthenticated extends MdserverError {}

/** The server refuses a request; `results` has the refused symbols and types where it is about some of them. */
export class Refused extends MdserverError {
  constructor(message, code, results = []) {
    super(message, code);
    this.results = results;
  }
}

/** A question to history failed; `status` is that of HTTP, `param` the parameter to blame or null. */
export class RequestFailed extends MdserverError {
  constructor(message, code, status, param = null) {
    super(message, code);
    this.status = status;
    this.param = param;
  }
}

/** Return a client of the server at `url`; in a page of the server itself that is the default. */
export function connect(url = globalThis.location?.origin, options = {}) {
  return new Client(url, options);
}

/** Questions to history, and streams. It holds no connection of its own: each stream has one. */
export class Client {
  #key;
  #timeoutMs;

  constructor(url, { key = null, timeoutMs = 30_000 } = {}) {
    const base = new URL(String(url).replace(/^ws/, "http"));
    if (!/^https?:$/.test(base.protocol)) throw new TypeError(`url: expected http:// or https://, got ${url}`);
    this.url = base.href.replace(/[?#].*$/, "").replace(/\/+$/, "");
    this.#key = key;
    this.#timeoutMs = timeoutMs;
  }

  /** Iterate over records; the iterator also has `batches()`, `position` and `close()`. */
  stream(symbols = [], options = {}) {
    return new Stream(this.url, this.#key, { ...options, symbols });
  }

  /** Iterate over arrays of records: all that has arrived since the last one. */
  batches(symbols = [], options = {}) {
    return this.stream(symbols, options).batches();
  }

  /** Return candles whose opens lie in [from, to]; with `columns: true` an object of arrays. */
  async candles(symbol, timeframe, from, to, { columns = false, ...options } = {}) {
    const query = { symbol, timeframe, from: seconds(from), to: seconds(to), ...options };
    return await this.get("/api/candles", columns ? { ...query, format: "columns" } : query);
  }

  /** Return the recorded quotes of [from, to], of all pages; at most `limit`. */
  async ticks(symbol, from, to, options = {}) {
    return await this.#records("tick", symbol, from, to, options);
  }

  /** Return the recorded trades of [from, to], of all pages; at most `limit`. */
  async trades(symbol, from, to, options = {}) {
    return await this.#records("trade", symbol, from, to, options);
  }

  async #records(type, symbol, from, to, { limit = Infinity, ...options }) {
    const query = { symbol, from: seconds(from), to: seconds(to), ...options };
    const found = [];
    let cursor;
    while (found.length < limit) {
      const most = Math.min(10_000, limit - found.length);
      const page = await this.get(`/api/${type}s`, { ...query, limit: most, cursor });
      for (const record of page[`${type}s`]) found.push({ type, broker: page.broker, symbol: page.symbol, ...record });
      if (page.next_cursor === null) break;
      cursor = page.next_cursor;
    }
    return found;
  }

  /** Return what there is, at most `limit` (1,000): instruments with names, kinds, brokers, first and last record. */
  async symbols(options = {}) {
    return (await this.get("/api/symbols", { limit: 1000, ...options })).symbols;
  }

  /** Return what is stored of a symbol, or of all. */
  async metadata(symbol) {
    return await this.get("/api/metadata", { symbol });
  }

  /** Return the state of each broker. */
  async brokers() {
    return (await this.get("/api/brokers", {})).brokers;
  }

  /** Return where records may be missing: `symbol`, `broker`, `from`, `to`, `state` narrow it down. */
  async gaps({ from, to, limit = Infinity, ...options } = {}) {
    const query = { ...options, from: seconds(from), to: seconds(to), limit: Math.min(limit, 10_000) };
    return (await this.get("/api/gaps", query)).gaps;
  }

  /** Ask any route and return its JSON; undefined and null parameters are left out. */
  async get(path, query = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
    const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    const url = this.url + path + (text ? `?${text}` : "");
    const headers = this.#key === null ? {} : { Authorization: `Bearer ${this.#key}` };
    const [response, body] = await ask(url, { headers, signal: AbortSignal.timeout(this.#timeoutMs) });
    if (response.ok) return body;
    throw problem(response, body);
  }
}

async function ask(url, options) {
  let response, text;
  try {
    response = await fetch(url, options);
    text = await response.text();
  } catch (error) {
    const why = error.name === "TimeoutError" ? "no answer in time" : (error.cause?.message ?? error.message);
    throw new ConnectionFailed(`cannot reach ${url}: ${why}`);
  }
  try {
    return [response, JSON.parse(text)];
  } catch {
    const kind = response.headers.get("content-type") ?? "no content type";
    throw new ConnectionFailed(
      `${url} answered ${response.status} with ${kind} in place of JSON: no mdserver, or a proxy before it`,
    );
  }
}

function problem(response, body) {
  const { code, detail, title, param } = body ?? {};
  if (typeof code !== "string") return new ConnectionFailed(`${response.url} answered ${response.status}: no mdserver`);
  const message = `${response.status} ${code}: ${detail ?? title ?? ""}`;
  if (response.status === 401) return new NotAuthenticated(message, code);
  return new RequestFailed(message, code, response.status, param ?? null);
}

/** Unix seconds of a number, a Date or an ISO 8601 text; undefined stays. */
function seconds(time) {
  if (time === undefined || time === null || typeof time === "number") return time;
  const ms = time instanceof Date ? time.getTime() : Date.parse(time);
  if (Number.isNaN(ms)) throw new TypeError(`expected Unix seconds, a Date or an ISO 8601 time, got ${time}`);
  return ms / 1000;
}

// -- what a stream has had, and what it has to ask for -----------------------------------------------------------------

const STORED = new Set(["tick", "trade"]); // what can be replayed
const ALL = "*"; // in place of symbols: all that a broker streams
const ROWS = 500; // topics in one request, which may have 64 KiB
const REMEMBERED_GAPS = 32; // gaps of a topic that are known when they are announced again
const INTERVAL_S = { m: 60, h: 3600, d: 86_400 };

/** One topic: the last number and time that the loop had. `broken`: why the next record does not follow on it. */
class Topic {
  seq = null;
  time = null;
  broken = null;
  waiting = false; // the server has yet to say that it goes on behind `seq`; what is newer will come again
  explained = false; // a gap of the server's came behind the last record
  gaps = [];

  constructor(broker, symbol, type) {
    Object.assign(this, { broker, symbol, type });
  }
}

/** Decides what the loop gets, and what is asked for on each connection. No I/O. */
export class Resumption {
  epoch = null;
  topics = new Map();
  refused = [];
  retry = false; // history was not there: ask again a little later
  #never = new Set(); // ids of requests of this connection whose past the server can never send
  #liveOnly = false; // the key may not ask for the past

  constructor({ symbols = [], types = ["tick"], broker, since, interval, depth, snapshot, received, rateMs, slow }) {
    this.types = types;
    const positional = typeof since === "object" && since !== null && !(since instanceof Date);
    this.since = positional ? since : seconds(since);
    if (positional && "epoch" in since && symbols.length === 0) {
      this.symbols = undefined;
      this.types = [...new Set(since.seqs.map((row) => row[2]))];
    } else this.symbols = symbols;
    this.options = { broker, interval, depth, received, rate_ms: rateMs, slow };
    this.snapshot = snapshot;
    this.nextId = 1;
    this.asked = new Map(); // id of a request -> its topics; null: the first one
    this.began = null; // server's time when the first request was answered
  }

  /** The numbers that the loop has had so far, to be given as `since` another time. */
  get position() {
    const seqs = [];
    for (const { broker, symbol, type, seq } of this.topics.values())
      if (seq !== null && STORED.has(type)) seqs.push([broker, symbol, type, seq]);
    return { epoch: this.epoch, seqs };
  }

  /** Return the requests with which a connection begins. */
  connected(hello) {
    const same = this.epoch === null || this.epoch === hello.epoch;
    this.epoch = hello.epoch;
    this.asked.clear();
    this.#never.clear();
    this.retry = false;
    if (this.began === null) {
      this.helloTime = hello.time;
      return [this.#request(null, { symbols: this.symbols, since: this.since, snapshot: this.snapshot })];
    }
    for (const topic of this.topics.values()) {
      topic.waiting = this.#isReplayed(topic);
      if (!topic.waiting) topic.broken = topic.seq === null && topic.time === null ? null : "disconnected";
      else if (!same && topic.seq !== null) [topic.seq, topic.broken] = [null, "epoch"];
    }
    // All symbols of a broker: those that the stream has had are resumed by name besides.
    const everything = this.symbols?.length === 1 && this.symbols[0] === ALL;
    const first = everything ? [this.#request(null, { symbols: this.symbols })] : [];
    return [...first, ...this.#resuming([...this.topics.values()], hello.time)];
  }

  /** Return the requests that ask once more for what was not there. */
  again() {
    this.retry = false;
    return this.#resuming([...this.topics.values()].filter((topic) => topic.waiting), this.began);
  }

  /** Wait for history no longer: what is live comes, behind a gap. */
  giveUp(cause = "history_unavailable") {
    this.retry = false;
    for (const topic of this.topics.values()) if (topic.waiting) [topic.waiting, topic.broken] = [false, cause];
  }

  #resuming(topics, serverTime) {
    const requests = [];
    const numbered = topics.filter((topic) => topic.seq !== null && this.#isReplayed(topic));
    for (let at = 0; at < numbered.length; at += ROWS) {
      const some = numbered.slice(at, at + ROWS);
      const seqs = some.map(({ broker, symbol, type, seq }) => [broker, symbol, type, seq]);
      requests.push(this.#request(some, { broker: undefined, since: { epoch: this.epoch, seqs } }));
    }
    const groups = new Map();
    for (const topic of topics.filter((one) => !numbered.includes(one))) {
      const name = JSON.stringify([topic.broker, topic.type]);
      groups.set(name, [...(groups.get(name) ?? []), topic]);
    }
    for (const group of groups.values()) {
      for (let at = 0; at < group.length; at += ROWS) {
        const some = group.slice(at, at + ROWS);
        const { broker } = some[0];
        const fields = { broker, symbols: some.map((topic) => topic.symbol) };
        if (this.#isReplayed(some[0])) fields.since = Math.min(serverTime, ...some.map((one) => one.time ?? this.#origin()));
        requests.push(this.#request(some, fields));
      }
    }
    return requests;
  }

  #isReplayed(topic) {
    return STORED.has(topic.type) && !this.#liveOnly;
  }

  #origin() {
    return typeof this.since === "number" ? this.since : this.began;
  }

  #request(topics, fields) {
    const id = this.nextId++;
    this.asked.set(id, topics);
    const types = topics === null ? this.types : [...new Set(topics.map((topic) => topic.type))];
    const { interval, depth, rate_ms, ...common } = this.options;
    const request = { action: "subscribe", id, types, ...common, rate_ms, ...fields };
    if (types.includes("candle")) request.interval = interval;
    if (types.includes("orderbook")) request.depth = depth;
    for (const name of Object.keys(request)) if (request[name] === undefined || request[name] === null) delete request[name];
    return request;
  }

  #topic(broker, symbol, type) {
    const name = `${broker}\0${symbol}\0${type}`;
    let topic = this.topics.get(name);
    if (topic === undefined) this.topics.set(name, (topic = new Topic(broker, symbol, type)));
    return topic;
  }

  /** Take an acknowledgement. Returns the results that were refused. */
  acknowledged(message) {
    const first = this.asked.get(message.id) === null;
    if (first && this.began === null) this.began = this.helloTime;
    const refused = [];
    for (const result of message.results ?? []) {
      if (result.status === "error") {
        refused.push(result);
        this.topics.delete(`${result.broker}\0${result.symbol}\0${result.type}`);
      } else if (result.status !== "removed" && result.type !== "heartbeat" && result.symbol !== ALL) {
        this.#begins(result, first);
        if (result.code === 410) this.#never.add(message.id); // this server stores nothing: there is no past to wait for
      }
    }
    this.refused.push(...refused);
    return refused;
  }

  #begins(result, first) {
    const isNew = !this.topics.has(`${result.broker}\0${result.symbol}\0${result.type}`);
    const topic = this.#topic(result.broker, result.symbol, result.type);
    if (!STORED.has(topic.type)) return;
    if (first && isNew && this.since !== undefined && this.since !== null) {
      topic.waiting = true;
      if (typeof this.since === "number") topic.time = this.since;
      else if ("seq" in this.since) topic.seq = this.since.seq;
      else {
        const row = this.since.seqs.find(([b, s, t]) => b === topic.broker && s === topic.symbol && t === topic.type);
        if (row === undefined) topic.waiting = false; // begins live
        else if (this.since.epoch === this.epoch) topic.seq = row[3];
      }
    }
    if (result.recovered === undefined) return;
    topic.waiting = false;
    if (result.recovered === false) topic.broken ??= "not_stored";
  }

  /** Tell whether the past was refused, for want of a right or of room; from then on it is not asked for. */
  mustDoWithout(message) {
    const resuming = Array.isArray(this.asked.get(message.id));
    if (![405, 409].includes(message.code) || !resuming || this.#liveOnly) return false;
    return (this.#liveOnly = true);
  }

  /** Take an error that answers a request: true where the stream goes on. */
  failed(message) {
    const topics = this.asked.get(message.id);
    if (topics === undefined) return false;
    if (message.code === 410 && this.#never.has(message.id)) return true;
    const concerned = topics ?? [...this.topics.values()];
    if (message.code === 410 && concerned.length) {
      for (const topic of concerned) topic.waiting = STORED.has(topic.type);
      this.retry = true;
      return true;
    }
    return false;
  }

  /** Return what the loop gets of one record or gap. */
  received(record) {
    if (record.type === "gap") return this.#gap(record);
    const topic = this.#topic(record.broker, record.symbol, record.type);
    if (record.seq === undefined) return this.#unnumbered(topic, record);
    let cause = topic.broken;
    if (cause === null && topic.seq !== null) {
      if (record.seq <= topic.seq) return [];
      if (record.seq - topic.seq - 1 > (record.conflated ?? 0)) cause = topic.explained ? null : "missed";
      if (cause !== null && topic.waiting) return [];
    } else if (topic.waiting && cause !== "epoch") return [];
    if (cause === "epoch" && topic.time !== null && record.time <= topic.time) return [];
    const out = cause === null ? [record] : [this.#hole(topic, record, cause), record];
    [topic.seq, topic.time, topic.broken, topic.explained] = [record.seq, record.time, null, false];
    return out;
  }

  #unnumbered(topic, record) {
    const unit = record.interval ?? "1m";
    const length = parseInt(unit, 10) * (INTERVAL_S[unit.at(-1)] ?? 60);
    // The candle that was forming may have closed meanwhile, and others been missed.
    const missed = topic.broken !== null && topic.time !== null && record.time > topic.time + (topic.closed ? length : 0);
    const out = missed ? [this.#hole(topic, record, topic.broken), record] : [record];
    if (topic.time === null || record.time >= topic.time) [topic.time, topic.closed] = [record.time, record.closed];
    topic.broken = null;
    return out;
  }

  #hole(topic, record, cause) {
    const { broker, symbol, type } = topic;
    const size = topic.seq !== null && cause === "missed" ? { size: record.seq - topic.seq - 1 } : {};
    const from = topic.time ?? record.time;
    return { type: "gap", broker, symbol, record_type: type, from, to: record.time, cause, ...size, state: "open" };
  }

  #gap(record) {
    const topic = this.#topic(record.broker, record.symbol, record.record_type);
    const name = JSON.stringify([record.from, record.to, record.state, record.cause]);
    if (topic.gaps.includes(name)) return []; // announced again by a replay
    topic.gaps = [...topic.gaps.slice(1 - REMEMBERED_GAPS), name];
    topic.explained = true;
    return [record];
  }
}

// -- the connection ----------------------------------------------------------------------------------------------------

const LONGEST_PAUSE_MS = 15_000;
const PING_MS = 15_000; // without a sign of life for this long the client asks for one
const SILENCE_MS = 30_000; // and after this long it connects anew
const HISTORY_WAIT_MS = 15_000; // for a server that has just started, until its history is there
const OPEN_MS = 20_000;
const MOST_WAITING = 100_000; // records that wait for the loop; then it is read to their end before more are asked for
const GARBAGE_IN_A_ROW = 5;
const FATAL = new Set([400, 401, 402, 404, 405, 408, 409]);

/** An endless stream of records; `for await` over it, or over its `batches()`. */
export class Stream {
  #url;
  #key;
  #state;
  #options;
  #queue = [];
  #wake = null;
  #failure = null;
  #ended = false;
  #socket = null;
  #timers = new Set();
  #attempt = 0;
  #garbage = 0;
  #everConnected = false;
  #paused = false;
  #heard = 0;
  #historyUntil = null;
  #lastError = null;

  constructor(url, key, options) {
    this.#url = url;
    this.#key = key;
    this.#options = options;
    this.#state = new Resumption(options);
    options.signal?.addEventListener("abort", () => this.close(), { once: true });
    if (options.signal?.aborted) this.#ended = true;
  }

  /** The last record of each topic, to be given as `since` another time. */
  get position() {
    return this.#state.position;
  }

  /** The symbols and types that the server refused, if `skipRefused`. */
  get refused() {
    return this.#state.refused;
  }

  async *[Symbol.asyncIterator]() {
    for await (const batch of this.batches()) yield* batch;
  }

  /** Yield arrays of records, each with all that has come since the one before. */
  async *batches() {
    if (!this.#ended && this.#socket === null && this.#timers.size === 0) this.#connect();
    try {
      for (;;) {
        if (this.#queue.length) {
          const batch = this.#queue;
          this.#queue = [];
          if (this.#paused) this.#resume();
          yield batch;
        } else if (this.#failure) throw this.#failure;
        else if (this.#ended) return;
        else await new Promise((resolve) => (this.#wake = resolve));
      }
    } finally {
      this.close();
    }
  }

  /** End the stream: its socket and timers are gone when this returns, and the loop ends. */
  close() {
    this.#ended = true;
    this.#drop();
    this.#wakeUp();
  }

  #wakeUp() {
    this.#wake?.();
    this.#wake = null;
  }

  #fail(error) {
    this.#failure ??= error;
    this.#drop();
    this.#wakeUp();
  }

  #drop() {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onerror = socket.onclose = null;
      socket.close();
    }
  }

  #later(ms, work) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }

  async #connect() {
    const url = this.#url.replace(/^http/, "ws") + "/?batch=true";
    const protocols = this.#key === null ? [] : ["mdserver", `mdserver.key.${this.#key}`];
    const timer = {}; // stands for this attempt until there is a socket
    this.#socket = timer;
    timer.close = () => {};
    let Socket;
    try {
      Socket = globalThis.WebSocket ?? (await nodeSocket());
      if (this.#socket !== timer) return; // closed meanwhile
      this.#socket = new Socket(url, protocols);
    } catch (error) {
      this.#fail(new ConnectionFailed(`cannot open ${url}: ${error.message}`));
      return;
    }
    const socket = this.#socket;
    let open = false;
    this.#later(OPEN_MS, () => open || this.#lost("no connection within 20 s"));
    socket.onmessage = (event) => {
      if (!open) [open, this.#everConnected] = [true, true];
      this.#heard = Date.now();
      this.#message(event.data);
    };
    socket.onerror = () => {}; // a close follows
    socket.onclose = (event) => this.#lost(event.reason || `closed with ${event.code}`, open);
  }

  async #lost(why, wasOpen = true) {
    this.#drop();
    if (this.#ended || this.#failure) return;
    this.#options.onStatus?.({ type: "status", state: "disconnected", message: this.#lastError?.message ?? why });
    if (!this.#everConnected || !wasOpen) {
      const placeholder = { close() {} };
      this.#socket = placeholder;
      const reason = await this.#explain(why);
      if (this.#socket !== placeholder) return;
      this.#socket = null;
      if (!this.#everConnected || reason instanceof NotAuthenticated || reason instanceof Refused) return this.#fail(reason);
    }
    this.#lastError = null;
    const pause = Math.min((this.#options.firstPauseMs ?? 250) * 2 ** this.#attempt++, LONGEST_PAUSE_MS);
    this.#later(pause * (0.5 + Math.random() / 2), () => this.#connect());
  }

  /** Find out why there is no connection: a WebSocket of a browser tells nothing. */
  async #explain(why) {
    if (this.#lastError) return this.#lastError;
    const headers = this.#key === null ? {} : { Authorization: `Bearer ${this.#key}` };
    try {
      const [response, body] = await ask(`${this.#url}/stream`, { headers, signal: AbortSignal.timeout(5000) });
      const error = problem(response, body);
      if (response.status === 403) return new Refused(error.message, error.code);
      return response.status === 426 ? new ConnectionFailed(`the WebSocket at ${this.#url} failed: ${why}`) : error;
    } catch (error) {
      return error;
    }
  }

  #message(data) {
    let messages;
    try {
      const parsed = JSON.parse(data);
      messages = Array.isArray(parsed) ? parsed : [parsed];
      if (messages.some((one) => typeof one?.type !== "string")) throw new TypeError("a message without a type");
    } catch (error) {
      this.#garbled(error.message);
      return;
    }
    const before = this.#queue.length;
    for (const message of messages) {
      this.#handle(message);
      if (this.#socket === null) return;
    }
    if (this.#queue.length > before) {
      this.#attempt = this.#garbage = 0;
      this.#wakeUp();
      if (this.#queue.length > MOST_WAITING) {
        this.#paused = true;
        this.#drop();
      }
    }
  }

  /** The loop has taken what waited: connect again, and go on where it stands. */
  #resume() {
    this.#paused = false;
    if (!this.#ended) this.#connect();
  }

  #garbled(why) {
    this.#garbage += 1;
    const error = new ProtocolViolation(`the server at ${this.#url} sent what is no message: ${why}`);
    if (this.#garbage >= GARBAGE_IN_A_ROW) this.#fail(error);
    else this.#lost(error.message);
  }

  #handle(message) {
    const { type } = message;
    if (type === "error") this.#onError(message);
    else if (type === "ack") this.#onAck(message);
    else if (type === "status" && message.epoch !== undefined) this.#onHello(message);
    else if (type === "status") {
      if (message.message === "replay complete") this.#historyUntil = null;
      this.#options.onStatus?.(message);
    } else if (["tick", "trade", "candle", "orderbook", "gap"].includes(type)) {
      for (const record of this.#state.received(message)) this.#queue.push(record);
    }
  }

  #onHello(hello) {
    this.#send(this.#state.connected(hello));
    this.#options.onStatus?.({ type: "status", state: "connected", message: hello.server, epoch: hello.epoch });
    this.#watch();
  }

  #send(requests) {
    for (const request of requests) this.#socket.send(JSON.stringify(request));
  }

  /** Notice a connection that is dead without a word: a machine that slept, a router that forgot it. */
  #watch() {
    this.#later(PING_MS, () => {
      const silent = Date.now() - this.#heard;
      if (silent >= SILENCE_MS) return void this.#lost(`nothing heard for ${Math.round(silent / 1000)} s`);
      if (silent >= PING_MS - 1000) this.#send([{ action: "ping" }]);
      this.#watch();
    });
  }

  #onAck(message) {
    const refused = this.#state.acknowledged(message);
    if (refused.length && !this.#options.skipRefused) {
      const { symbol, type, code, message: why } = refused[0];
      const more = refused.length > 1 ? ` (and ${refused.length - 1} more)` : "";
      this.#fail(new Refused(`${type} of ${symbol} is refused: ${why}${more}`, code, refused));
    } else if (refused.length) this.#options.onStatus?.({ type: "refused", results: refused });
  }

  #onError(message) {
    const { code } = message;
    const text = `${code}: ${message.message}`;
    if (this.#state.mustDoWithout(message)) this.#lost(text);
    else if (this.#state.failed(message)) {
      if (!this.#state.retry) return;
      this.#historyUntil ??= Date.now() + HISTORY_WAIT_MS;
      this.#later(1000, () => {
        if (!this.#state.retry) return;
        if (Date.now() < this.#historyUntil) return this.#send(this.#state.again());
        this.#historyUntil = null;
        this.#state.giveUp();
      });
    } else if (code === 401 || code === 402 || code === 404) this.#fail(new NotAuthenticated(text, code));
    else if (FATAL.has(code)) this.#fail(new Refused(text, code));
    else this.#lastError = new Refused(text, code); // 406, 407, 429, 500: a close follows, or it can be tried again
    if (code === 429) this.#lost(text);
  }
}

// -- a WebSocket for Node 20, which has none of its own ------------------------------------------------------------------

async function nodeSocket() {
  const [{ request: http }, { request: https }, { randomBytes, createHash }] = await Promise.all([
    import("node:http"),
    import("node:https"),
    import("node:crypto"),
  ]);

  /** As much of the browsers' WebSocket as is used above. */
  return class NodeSocket {
    onopen = null;
    onmessage = null;
    onerror = null;
    onclose = null;
    #socket = null;
    #request;
    #parts = [];
    #done = false;

    constructor(url, protocols) {
      const key = randomBytes(16).toString("base64");
      const headers = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key };
      if (protocols.length) headers["Sec-WebSocket-Protocol"] = protocols.join(", ");
      const ask = url.startsWith("wss:") ? https : http;
      this.#request = ask(url.replace(/^ws/, "http"), { headers, agent: false });
      this.#request.on("error", (error) => this.#end(1006, error.message));
      this.#request.on("response", (response) => {
        response.destroy();
        this.#end(1006, `the WebSocket is refused with ${response.statusCode}`);
      });
      this.#request.on("upgrade", (response, socket, head) => {
        const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
        if (response.headers["sec-websocket-accept"] !== accept || this.#done) {
          socket.destroy();
          return this.#end(1006, "the answer to the handshake is wrong");
        }
        this.#socket = socket;
        socket.setNoDelay(true);
        socket.on("error", (error) => this.#end(1006, error.message));
        socket.on("close", () => this.#end(1006, "the connection was lost"));
        let rest = head;
        const take = (data) => (rest = this.#frames(rest.length ? Buffer.concat([rest, data]) : data));
        socket.on("data", take);
        this.onopen?.({});
        if (head.length) take(Buffer.alloc(0));
      });
      this.#request.end();
    }

    send(text) {
      this.#write(0x1, Buffer.from(text));
    }

    close() {
      if (this.#socket?.writable) this.#write(0x8, Buffer.from([0x03, 0xe8]));
      this.#done = true;
      this.#socket?.destroySoon?.();
      this.#socket ?? this.#request.destroy();
    }

    #end(code, reason) {
      if (this.#done) return;
      this.#done = true;
      this.#socket?.destroy();
      this.onclose?.({ code, reason });
    }

    #write(opcode, payload) {
      if (!this.#socket?.writable) return;
      const size = payload.length;
      const head = size < 126 ? Buffer.from([0x80 | opcode, 0x80 | size]) : Buffer.alloc(size < 65_536 ? 4 : 10);
      if (size >= 126) {
        head[0] = 0x80 | opcode;
        head[1] = 0x80 | (size < 65_536 ? 126 : 127);
        if (size < 65_536) head.writeUInt16BE(size, 2);
        else head.writeBigUInt64BE(BigInt(size), 2);
      }
      const mask = randomBytes(4);
      this.#socket.write(Buffer.concat([head, mask, payload.map((byte, at) => byte ^ mask[at & 3])]));
    }

    /** Handle the whole frames at the start of `data`; return the rest. */
    #frames(data) {
      let at = 0;
      while (!this.#done && data.length >= at + 2) {
        let size = data[at + 1];
        let head = 2;
        if (size === 126) [size, head] = [data.length >= at + 4 ? data.readUInt16BE(at + 2) : Infinity, 4];
        else if (size === 127) [size, head] = [data.length >= at + 10 ? Number(data.readBigUInt64BE(at + 2)) : Infinity, 10];
        if (data.length < at + head + size) break;
        this.#frame(data[at], data.subarray(at + head, at + head + size));
        at += head + size;
      }
      return data.subarray(at);
    }

    #frame(first, payload) {
      const opcode = first & 0x0f;
      if (opcode === 0x9) this.#write(0xa, payload);
      else if (opcode === 0x8) {
        const code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
        this.#write(0x8, payload.subarray(0, 2));
        this.#end(code, payload.subarray(2).toString());
      } else if (opcode <= 0x2) {
        this.#parts.push(payload);
        if (first & 0x80) {
          const text = Buffer.concat(this.#parts.splice(0)).toString();
          this.onmessage?.({ data: text });
        }
      } else if (opcode !== 0xa) this.#end(1002, `a frame with the unknown opcode ${opcode}`);
    }
  };
}
