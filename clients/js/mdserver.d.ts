/** Client of mdserver for browsers and Node 20 or newer. Times are Unix seconds, UTC. */

export type RecordType = "tick" | "trade" | "candle" | "orderbook";
/** Unix seconds, a Date, or an ISO 8601 time. */
export type Time = number | Date | string;
export type Interval = "1m" | "5m" | "15m" | "30m" | "1h" | "4h" | "12h" | "1d";
export type Level = [price: number, size: number];

interface Numbered {
  broker: string;
  symbol: string;
  /** Counts by one for each broker, symbol and type. */
  seq: number;
  /** The venue's time. */
  time: number;
  /** When the server's socket had it; only with `received: true`. */
  received?: number;
  /** How many older records this one stands for: the loop was too slow for them. */
  conflated?: number;
  snapshot?: true;
}

export interface Tick extends Numbered {
  type: "tick";
  bid: number;
  ask: number;
  bid_size?: number;
  ask_size?: number;
}

export interface Trade extends Numbered {
  type: "trade";
  price: number;
  size: number;
  /** The aggressor's. */
  side?: "buy" | "sell";
  trade_id?: string;
}

export interface OrderBook extends Numbered {
  type: "orderbook";
  depth?: number | "full";
  bids: Level[];
  asks: Level[];
}

export interface Candle extends Omit<Numbered, "seq"> {
  type: "candle";
  interval: Interval;
  seq?: number;
  open: number;
  high: number;
  low: number;
  close: number;
  volume: number;
  count: number;
  closed: boolean;
  revised?: true;
}

/** Records of a kind may be missing between two times. The causes are in the reference of the WebSocket, besides ours. */
export interface Gap {
  type: "gap";
  broker: string;
  symbol: string;
  record_type: RecordType;
  from: number;
  to?: number;
  /** The server's, or the client's own: missed, epoch, not_stored, history_unavailable, disconnected. */
  cause: string;
  size?: number | null;
  state: "open" | "filled" | "permanent";
}

/** What a stream of these types gives; a {@link Gap} may always come. */
export type RecordOf<T extends RecordType> =
  | (T extends "tick" ? Tick : T extends "trade" ? Trade : T extends "candle" ? Candle : OrderBook)
  | Gap;

/** Where a stream stands: what to give as `since` to go on behind it. */
export interface Position {
  epoch: string | null;
  seqs: [broker: string, symbol: string, type: string, seq: number][];
}

/** One symbol and type that was refused. */
export interface RefusedResult {
  broker: string | null;
  symbol: string;
  type: string;
  status: "error";
  code: number;
  message: string;
}

export type Status =
  | { type: "status"; state: string; message: string; broker?: string; epoch?: string; time?: number }
  | { type: "refused"; results: RefusedResult[] };

export interface StreamOptions<T extends RecordType = RecordType> {
  /** Default `["tick"]`. */
  types?: readonly T[];
  /** Default: the first of the config that has the symbol. */
  broker?: string;
  /** From where in the past to begin; live follows on it. */
  since?: Time | Position | { seq: number };
  /** Of candles; default 1m. */
  interval?: Interval;
  /** Of order books. */
  depth?: number | "full";
  /** The last record of each topic comes first. */
  snapshot?: boolean;
  /** Records carry the time of their receipt. */
  received?: boolean;
  /** At most one tick, forming candle or order book of an instrument in so many milliseconds. */
  rateMs?: number;
  /** `close` has the server close the connection, and the client resume, in place of conflating. */
  slow?: "conflate" | "close";
  /** Go on without the symbols and types that the server refuses; `refused` of the stream has them. */
  skipRefused?: boolean;
  /** Called with each change of the connection and of the brokers. */
  onStatus?: (status: Status) => void;
  signal?: AbortSignal;
  /** Before the client connects again; each next pause is twice as long, 15 s at most. Default 250. */
  firstPauseMs?: number;
}

export class Stream<T extends RecordType = "tick"> implements AsyncIterable<RecordOf<T>> {
  readonly position: Position;
  readonly refused: RefusedResult[];
  [Symbol.asyncIterator](): AsyncGenerator<RecordOf<T>, void, undefined>;
  /** Arrays of records, each with all that has come since the one before. */
  batches(): AsyncGenerator<RecordOf<T>[], void, undefined>;
  /** End it; `break` in the loop does the same. */
  close(): void;
}

export interface StoredCandle {
  time: number;
  open: number;
  high: number;
  low: number;
  close: number;
  volume: number;
}

export type Columns<T> = { [K in keyof T]: T[K][] };

export interface CandleOptions {
  broker?: string;
  price?: "mid" | "bid" | "ask" | "trade";
}

export interface RecordsOptions {
  broker?: string;
  /** At most so many records; default: all. */
  limit?: number;
}

export interface BrokerState {
  broker: string;
  plugin: string;
  state: string;
  since: number;
  attempt: number;
  last_error: string | null;
  last_event: number | null;
  feeds: number;
  active: number;
  refused: Record<string, string>;
  errors: { time: number; outcome: string; message: string }[];
  changes: { time: number; state: string; message: string }[];
}

export interface StoredGap extends Omit<Gap, "type"> {
  to: number;
}

export interface Extent {
  earliest: number | null;
  latest: number | null;
  tick_count: number;
  trade_count: number;
}

export type Metadata = Extent & { symbol: string; timeframes: string[]; brokers: (Extent & { broker: string })[] };
export type AllMetadata = { symbols: (Extent & { symbol: string })[]; timeframes: string[] };

/** What there is of a symbol; the reference of HTTP has the fields. */
export interface SymbolInfo {
  symbol: string;
  [field: string]: unknown;
}

export class Client {
  constructor(url: string, options?: ClientOptions);
  readonly url: string;
  stream<T extends RecordType = "tick">(symbols?: readonly string[], options?: StreamOptions<T>): Stream<T>;
  batches<T extends RecordType = "tick">(
    symbols?: readonly string[],
    options?: StreamOptions<T>,
  ): AsyncGenerator<RecordOf<T>[], void, undefined>;
  candles(symbol: string, timeframe: string, from: Time, to: Time, options?: CandleOptions): Promise<StoredCandle[]>;
  candles(
    symbol: string,
    timeframe: string,
    from: Time,
    to: Time,
    options: CandleOptions & { columns: true },
  ): Promise<Columns<StoredCandle>>;
  ticks(symbol: string, from: Time, to: Time, options?: RecordsOptions): Promise<Tick[]>;
  trades(symbol: string, from: Time, to: Time, options?: RecordsOptions): Promise<Trade[]>;
  symbols(options?: { query?: string; type?: string; broker?: string; limit?: number }): Promise<SymbolInfo[]>;
  metadata(symbol: string): Promise<Metadata>;
  metadata(): Promise<AllMetadata>;
  brokers(): Promise<BrokerState[]>;
  gaps(options?: {
    symbol?: string;
    broker?: string;
    from?: Time;
    to?: Time;
    state?: "open" | "filled" | "permanent";
    limit?: number;
  }): Promise<StoredGap[]>;
  /** Ask any route and return its JSON. */
  get(path: string, query?: Record<string, string | number | boolean | null | undefined>): Promise<unknown>;
}

export interface ClientOptions {
  /** The client key, where the server asks for one. */
  key?: string | null;
  /** Of a question to history; default 30 s. */
  timeoutMs?: number;
}

/** Return a client of the server at `url`; in a page of the server itself that is the default. */
export function connect(url?: string, options?: ClientOptions): Client;

export class MdserverError extends Error {
  /** The server's: a number of the WebSocket, a word of HTTP; else null. */
  readonly code: number | string | null;
}
/** The server cannot be reached, or what answers is no mdserver. */
export class ConnectionFailed extends MdserverError {}
/** The other end speaks something else than the protocol, again and again. */
export class ProtocolViolation extends MdserverError {}
/** The server asks for a key, or does not take this one. */
export class NotAuthenticated extends MdserverError {}
/** The server refuses a request, or some of its symbols and types: `results`. */
export class Refused extends MdserverError {
  readonly results: RefusedResult[];
}
/** A question to history failed. */
export class RequestFailed extends MdserverError {
  readonly status: number;
  readonly param: string | null;
}
