// The candles of one chart: history over HTTP, live ones behind it, each bucket once and in order.

import { ask, part } from "./server.js";

export const SECONDS = {
  "1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "2h": 7200, "4h": 14_400, "8h": 28_800,
  "12h": 43_200, "1d": 86_400, "1w": 604_800, "1M": 2_678_400,
};
const STREAMED = new Set(["1m", "5m", "15m", "30m", "1h", "4h", "12h", "1d"]);
const FIRST_PAGE = 500;
const EARLIER_PAGE = 1000;
const LATER_PAGE = 2000;
const LAST_S = 7_258_118_400; // 2200-01-01: no clock is asked what is newest
const POLL_MS = 1000;
const RETRY_MS = 5000;
const UNKNOWN_RETRY_MS = 30_000;

/**
 * on.reset(candles), on.update(candle, isOld), on.message(text), on.sources(names)
 */
export class Candles {
  list = []; // ascending
  #chosen;
  #on;
  #aborted = new AbortController();
  #follow = null;
  #waiting = []; // live candles, until history is there
  #loaded = false;
  #sources = new Set();
  #trusted = null; // the broker whose live candles belong to this chart
  #checking = false;
  #foreign = false;
  #begins = false; // there is nothing before the first candle
  #loading = false;
  #timers = new Set();

  /** `chosen`: symbol, timeframe, price, align, broker; empty ones are the server's default. */
  constructor(chosen, on) {
    this.#chosen = chosen;
    this.#on = on;
    this.step = SECONDS[chosen.timeframe];
    this.#begin();
  }

  /** History first, which is to be seen at once; what comes while the stream connects is fetched then. */
  async #begin() {
    const { timeframe, price, align } = this.#chosen;
    await this.#load();
    if (this.#stopped) return;
    // Others are made when they are asked for, so they are asked for.
    const isStreamed = STREAMED.has(timeframe) && !price && !align;
    if (!isStreamed) return void this.#poll();
    const { Follow } = await part(() => import("./follow.js"));
    if (!this.#stopped) this.#listen(Follow);
  }

  stop() {
    this.#aborted.abort();
    this.#follow?.stop();
    for (const timer of this.#timers) clearTimeout(timer);
  }

  /** The server is there again, as another stream found. */
  hurry() {
    this.#follow?.hurry();
  }

  /** Connect anew and fetch what was missed. */
  again() {
    this.#follow?.again();
    return this.#catchUp();
  }

  get #stopped() {
    return this.#aborted.signal.aborted;
  }

  /** Ask for candles; ascending, whichever end `more` limits. */
  async #fetch(more) {
    const { symbol, timeframe, price, align, broker } = this.#chosen;
    const query = { symbol, timeframe, price, align, broker, from: 0, to: LAST_S, ...more };
    const { body, headers } = await ask("api/candles", query, { signal: this.#aborted.signal });
    if (more.sort === "desc") body.reverse();
    const names = (headers.get("X-Broker") ?? "").split(",").map((name) => name.trim()).filter(Boolean);
    if (body.length) for (const name of names) this.#sources.add(name);
    return { candles: body, names };
  }

  /** Fetch the newest page; again and again while that fails for a reason that passes. */
  async #load() {
    try {
      const { candles } = await this.#fetch({ sort: "desc", limit: FIRST_PAGE });
      if (this.#stopped) return;
      this.list = candles;
      this.#loaded = true;
      this.#on.message(candles.length ? "" : "No candle is stored yet; the first record makes one.");
      this.#on.reset(this.list);
      this.#on.sources([...this.#sources]);
      this.#takeWaiting();
    } catch (error) {
      if (this.#stopped) return;
      this.#on.message(`${this.#chosen.symbol}: ${error.message}`);
      if (error.again || error.code === "unknown_symbol") {
        this.#later(error.again ? RETRY_MS : UNKNOWN_RETRY_MS, () => this.#load());
      }
    }
  }

  #later(ms, work) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }

  /** Load candles before the first; true if there were any. */
  async earlier() {
    if (this.#loading || this.#begins || !this.list.length || this.list[0].time <= 0) return false;
    this.#loading = true;
    try {
      const { candles } = await this.#fetch({ to: this.list[0].time - 1, sort: "desc", limit: EARLIER_PAGE });
      if (this.#stopped) return false;
      this.#begins = candles.length === 0;
      if (this.#begins) return false;
      this.list.unshift(...candles); // in place: who draws them has the same list
      this.#on.reset(this.list);
      return true;
    } catch (error) {
      if (!this.#stopped) this.#on.message(`Earlier candles: ${error.message}`);
      return false;
    } finally {
      this.#loading = false;
    }
  }

  #listen(Follow) {
    const { symbol, timeframe, broker } = this.#chosen;
    const options = { types: ["candle"], interval: timeframe, broker: broker || undefined };
    this.#follow = new Follow([symbol], options, {
      batch: (records) => records.forEach((one) => one.type === "candle" && this.#arrived(one)),
      state: (state) => {
        if (state === "live") this.#catchUp();
      },
      refused: (_, why) => {
        this.#on.message(`No live candles of ${symbol}: ${why}. Tried again every half minute.`);
        this.#catchUp();
      },
    });
  }

  async #arrived(candle) {
    if (this.#foreign) return;
    if (this.#loaded && candle.broker === this.#trusted) return this.#live(candle);
    this.#waiting.push(candle);
    if (!this.#loaded || this.#checking) return;
    this.#checking = true;
    try {
      if (await this.#belongs(candle)) this.#trusted = candle.broker;
      else this.#leave(candle.broker);
      this.#takeWaiting();
    } catch {
      // the next candle asks again
    } finally {
      this.#checking = false;
    }
  }

  #takeWaiting() {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const candle of waiting) this.#arrived(candle);
  }

  /** Whether a broker's candles are part of this chart: made-up prices are never joined with real ones. */
  async #belongs({ broker, time }) {
    if (this.#chosen.broker || this.#sources.size === 0 || this.#sources.has(broker)) return true;
    return (await this.#fetch({ from: time, to: time })).names.includes(broker);
  }

  #leave(broker) {
    const { symbol } = this.#chosen;
    this.#foreign = true;
    this.#follow.stop();
    this.#on.message(`Live prices of ${symbol} come from ${broker}, which is no part of this chart: choose it as source to see them.`);
    this.#poll();
  }

  #live(candle) {
    if (this.#foreign || this.#stopped) return;
    const { time, open, high, low, close, volume } = candle;
    this.#put({ time, open, high, low, close, volume });
    this.#on.message("");
  }

  #put(candle) {
    const { list } = this;
    const last = list.at(-1);
    if (!last || candle.time > last.time) list.push(candle);
    else if (candle.time === last.time) list[list.length - 1] = candle;
    else {
      const place = this.#place(candle.time);
      if (place < 0 || list[place].time !== candle.time) return this.#insert(place + 1, candle);
      if (same(list[place], candle)) return;
      list[place] = candle; // revised
      this.#on.update(candle, true);
      return;
    }
    this.#on.update(candle, false);
  }

  #insert(place, candle) {
    if (place === 0) return; // before what is loaded
    this.list.splice(place, 0, candle);
    this.#on.reset(this.list);
  }

  /** The place of the last candle that opens no later. */
  #place(time) {
    let [low, high] = [0, this.list.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.list[middle].time <= time) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** Fetch from the last candle on, in case some were missed: as many pages as a night of sleep takes. */
  async #catchUp() {
    if (!this.#loaded) return;
    const last = this.list.at(-1);
    if (!last) return void (await this.#load());
    let from = Math.max(0, last.time - 2 * this.step);
    try {
      for (;;) {
        const { candles } = await this.#fetch({ from, limit: LATER_PAGE });
        if (this.#stopped) return;
        for (const candle of candles) this.#put(candle);
        if (candles.length < LATER_PAGE) return;
        from = candles.at(-1).time;
      }
    } catch {
      if (!this.#stopped) this.#later(RETRY_MS, () => this.#catchUp());
    }
  }

  #poll() {
    this.#later(POLL_MS, async () => {
      if (!document.hidden) await this.#catchUp();
      if (!this.#stopped) this.#poll();
    });
  }
}

function same(one, other) {
  return ["open", "high", "low", "close", "volume"].every((name) => one[name] === other[name]);
}
