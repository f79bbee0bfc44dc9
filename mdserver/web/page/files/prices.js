// The table of live prices: rows are written once a frame, whatever arrives in between.

import { Follow } from "./follow.js";
import { at, decimals, element, utc } from "./show.js";

const MOST_ROWS = 200;
const RATE_MS = 1000;
const RATE_LIMIT_MS = 100; // eyes are no faster; the server tells how many it left out
const RETRY_MS = 30_000;

class Row {
  first = null;
  record = null;
  count = 0;
  shownBid = null;
  digits = 0;

  constructor(symbol, broker, choose) {
    this.row = document.createElement("tr");
    const button = element("button", "", symbol);
    button.type = "button";
    button.title = `Chart of ${symbol}`;
    button.onclick = () => choose(symbol);
    this.row.insertCell().append(button);
    this.row.insertCell().textContent = broker;
    this.cells = [...Array(6)].map(() => {
      const text = document.createTextNode("–");
      this.row.insertCell().append(text);
      return text;
    });
  }

  draw() {
    const { record } = this;
    const [bid, ask, spread, change, , last] = this.cells;
    const middle = record.type === "trade" ? record.price : (record.bid + record.ask) / 2;
    this.first ??= middle;
    if (record.type === "trade") {
      bid.data = `trade ${record.price}`;
    } else {
      this.digits = Math.max(this.digits, decimals(record.bid), decimals(record.ask));
      bid.data = record.bid.toFixed(this.digits);
      ask.data = record.ask.toFixed(this.digits);
      spread.data = (record.ask - record.bid).toFixed(this.digits);
    }
    const price = record.type === "trade" ? record.price : record.bid;
    if (this.shownBid !== null && price !== this.shownBid) {
      bid.parentNode.className = ask.parentNode.className = price > this.shownBid ? "up" : "down";
    }
    this.shownBid = price;
    const percent = (((middle - this.first) / this.first) * 100).toFixed(3);
    change.data = Number(percent) === 0 ? "0.000 %" : `${percent > 0 ? "▲" : "▼"} ${percent.replace("-", "−")} %`;
    last.data = utc(record.time, true);
  }

  drawRate() {
    this.cells[4].data = String(this.count);
    this.count = 0;
  }
}

/** `on.choose(symbol)`, `on.state(state, why)`, `on.gap(gap)`, `on.status(message)` */
export class Prices {
  #rows = new Map();
  #dirty = new Set();
  #drawing = false;
  #follows = [];
  #symbols = [];
  #gone = new Set();
  #retry = null;
  #on;
  #body = at("prices").querySelector("tbody");

  constructor(on) {
    this.#on = on;
    setInterval(() => this.#rows.forEach((row) => row.drawRate()), RATE_MS);
  }

  /** Follow these symbols, of `count` that there are; nothing happens where they are followed already. */
  show(symbols, count) {
    if (symbols.join() === this.#symbols.join()) return;
    this.#symbols = symbols;
    for (const follow of this.#follows) follow.stop();
    this.#rows.clear();
    this.#gone.clear();
    clearTimeout(this.#retry);
    this.#body.replaceChildren();
    const some = symbols.slice(0, MOST_ROWS);
    at("prices-message").textContent = !some.length && count
      ? `None of the ${count} symbols matches.`
      : symbols.length > some.length
        ? `The first ${some.length} of ${symbols.length} symbols; the filter finds the others.`
        : "";
    this.#follows = some.length ? [this.#follow(some, "tick", true)] : [];
  }

  /** Connect anew. */
  again() {
    for (const follow of this.#follows) follow.again();
  }

  #follow(symbols, type, leads) {
    const withoutQuotes = new Set();
    return new Follow(symbols, { types: [type], snapshot: true, skipRefused: true, rateMs: leads ? RATE_LIMIT_MS : undefined }, {
      batch: (records) => this.#take(records),
      state: (state, why) => leads && this.#on.state(state, why),
      status: (message) => this.#on.status(message),
      refused: (results, why) => this.#refused(results, why, type, withoutQuotes),
    });
  }

  /** What has no quotes may have trades; what has neither is stored only. What was there and is gone is said. */
  #refused(results, why, type, withoutQuotes) {
    for (const { symbol, broker } of results ?? []) {
      for (const [name, row] of this.#rows) {
        if (name === `${broker} ${symbol}` || (!broker && name.endsWith(` ${symbol}`))) {
          row.row.remove();
          this.#rows.delete(name);
          this.#gone.add(symbol);
        }
      }
    }
    const fresh = (results ?? []).map((one) => one.symbol).filter((symbol) => !withoutQuotes.has(symbol));
    fresh.forEach((symbol) => withoutQuotes.add(symbol));
    if (type === "tick" && fresh.length) this.#follows.push(this.#follow(fresh, "trade", false));
    this.#tellGone(why);
  }

  /** Symbols that disappeared may come back, so they are asked for again. */
  #tellGone(why) {
    clearTimeout(this.#retry);
    if (!this.#gone.size) return;
    const names = [...this.#gone].sort().join(", ");
    at("prices-message").textContent = `Not streamed any more: ${names} (${why}). Tried again every half minute.`;
    this.#retry = setTimeout(() => this.again(), RETRY_MS);
  }

  #take(records) {
    for (const record of records) {
      if (record.type === "gap") {
        this.#on.gap(record);
        continue;
      }
      const name = `${record.broker} ${record.symbol}`;
      let row = this.#rows.get(name);
      if (row === undefined) row = this.#add(name, record);
      row.record = record;
      row.count += 1 + (record.conflated ?? 0);
      this.#dirty.add(row);
    }
    if (!this.#drawing) {
      this.#drawing = true;
      requestAnimationFrame(() => this.#draw());
    }
  }

  #add(name, { symbol, broker }) {
    const row = new Row(symbol, broker, this.#on.choose);
    this.#rows.set(name, row);
    if (this.#gone.delete(symbol)) this.#backAgain();
    const after = [...this.#rows.keys()].sort(bySymbol);
    const next = after[after.indexOf(name) + 1];
    this.#body.insertBefore(row.row, next === undefined ? null : this.#rows.get(next).row);
    return row;
  }

  #backAgain() {
    if (this.#gone.size) return;
    clearTimeout(this.#retry);
    at("prices-message").textContent = "";
  }

  #draw() {
    this.#drawing = false;
    for (const row of this.#dirty) row.draw();
    this.#dirty.clear();
  }
}

function bySymbol(one, other) {
  const [a, b] = [one, other].map((name) => name.split(" ").reverse().join(" "));
  return a < b ? -1 : 1;
}
