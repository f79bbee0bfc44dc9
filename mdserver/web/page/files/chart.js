// Drawing: candles, with known gaps shaded; keys to walk over them, and a table for whoever cannot see them.

import { CandlestickSeries, ColorType, HistogramSeries, createChart } from "./vendor/lightweight-charts.js";
import { now } from "./server.js";
import { at, decimals, fill, utc } from "./show.js";

const MOST_SHADED = 300; // buckets of one gap
const TABLE_ROWS = 30;
const NEAR_START = 40; // candles left of the view before earlier ones are loaded

const dark = matchMedia("(prefers-color-scheme: dark)");

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { back: of("panel"), text: of("text"), line: of("line"), up: of("up"), down: of("down"), gap: of("gap") };
}

export class Chart {
  #chart;
  #candles;
  #gaps;
  #shown = []; // the list of Candles, which grows by itself
  #drawn = 0; // how many of them are drawn
  #holes = [];
  #step = 60;
  #cursor = null; // place of the candle that the keys are at
  #digits = 2;
  #fresh = true; // nothing is drawn yet

  /** `onStart()` is called when the view comes near the first candle. */
  constructor(place, onStart) {
    this.#chart = createChart(place, {
      autoSize: true,
      layout: { attributionLogo: false }, // it would need an inline style; the link stands below the chart
      timeScale: { timeVisible: true, secondsVisible: false, rightOffset: 4 },
    });
    this.#gaps = this.#chart.addSeries(HistogramSeries, {
      priceScaleId: "gaps", lastValueVisible: false, priceLineVisible: false, base: 0,
    });
    this.#chart.priceScale("gaps").applyOptions({ scaleMargins: { top: 0, bottom: 0 }, visible: false });
    this.#candles = this.#chart.addSeries(CandlestickSeries, { borderVisible: false });
    this.#paint();
    dark.addEventListener("change", () => this.#paint());
    this.#chart.subscribeCrosshairMove(({ time }) => this.#legend(time));
    this.#chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range && range.from < NEAR_START && this.#shown.length) onStart();
    });
    place.addEventListener("keydown", (event) => this.#key(event));
    at("as-table").addEventListener("toggle", () => this.#table());
  }

  #paint() {
    const { back, text, line, up, down } = colours();
    this.#chart.applyOptions({
      layout: { background: { type: ColorType.Solid, color: back }, textColor: text },
      grid: { vertLines: { color: line }, horzLines: { color: line } },
      rightPriceScale: { borderColor: line },
      timeScale: { borderColor: line },
    });
    this.#candles.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
    this.#shade();
  }

  /** Begin another chart. */
  clear(step, name) {
    this.#step = step;
    this.#holes = [];
    this.#cursor = null;
    at("chart").setAttribute("aria-label", name);
    this.reset([]);
    this.#fresh = true;
  }

  /** Draw all candles; the view stays where it is. */
  reset(list) {
    const before = this.#drawn;
    const range = this.#chart.timeScale().getVisibleLogicalRange();
    const grown = list.length - before;
    this.#shown = list;
    this.#drawn = list.length;
    this.#measure();
    this.#candles.setData(list.map(bar));
    this.#shade();
    if (this.#fresh && list.length) {
      this.#fresh = false;
      requestAnimationFrame(() => performance.mark("first candle"));
      this.#chart.timeScale().applyOptions({ timeVisible: this.#step < 86_400 });
      const wide = at("chart").clientWidth;
      this.#chart.timeScale().setVisibleLogicalRange({ from: list.length - Math.max(40, wide / 8), to: list.length + 4 });
    } else if (range && grown > 0 && before > 0) {
      this.#chart.timeScale().setVisibleLogicalRange({ from: range.from + grown, to: range.to + grown });
    }
    this.#legend();
    this.#table();
  }

  /** Draw one candle that is new or has changed; `isOld`: it is not the last. */
  update(candle, isOld) {
    if (this.#fresh) return this.reset(this.#shown.length ? this.#shown : [candle]);
    if (decimals(candle.close) > this.#digits) this.#measure();
    this.#candles.update(bar(candle), isOld);
    this.#drawn = this.#shown.length;
    this.#legend();
    this.#table();
  }

  /** Shade these intervals: `{from, to}` in seconds; `to` is null for one that goes on. */
  gaps(holes) {
    this.#holes = holes;
    this.#shade();
  }

  #shade() {
    const first = this.#shown[0]?.time;
    const times = new Set();
    for (const { from, to } of first === undefined ? [] : this.#holes) {
      const start = Math.floor(Math.max(from, first) / this.#step) * this.#step;
      const end = to ?? now(); // null: it goes on
      const count = Math.min(MOST_SHADED, Math.floor((end - start) / this.#step) + 1);
      for (let n = 0; n < count; n++) times.add(start + n * this.#step);
    }
    const color = `${colours().gap}55`;
    this.#gaps.setData([...times].sort((a, b) => a - b).map((time) => ({ time, value: 1, color })));
    at("chart").dataset.shaded = times.size;
  }

  #measure() {
    const some = this.#shown.slice(-50).flatMap(({ open, close }) => [decimals(open), decimals(close)]);
    this.#digits = Math.min(10, Math.max(0, ...some));
    const minMove = 10 ** -this.#digits;
    this.#candles.applyOptions({ priceFormat: { type: "price", precision: this.#digits, minMove } });
  }

  #legend(time) {
    const candle = time === undefined ? this.#shown.at(-1) : this.#shown.find((one) => one.time === time);
    const text = candle ? this.#words(candle) : "\u00a0";
    at("legend").textContent = text;
    at("chart").dataset.last = this.#shown.at(-1)?.time ?? "";
    at("chart").dataset.close = this.#shown.at(-1)?.close ?? "";
  }

  #words({ time, open, high, low, close, volume }) {
    const [o, h, l, c] = [open, high, low, close].map((price) => price.toFixed(this.#digits));
    return `${utc(time)} UTC  open ${o}  high ${h}  low ${l}  close ${c}  volume ${Number(volume.toPrecision(6))}`;
  }

  #table() {
    if (!at("as-table").open) return;
    const rows = this.#shown.slice(-TABLE_ROWS).reverse();
    const price = (value) => value.toFixed(this.#digits);
    fill(
      at("as-table").querySelector("tbody"),
      rows.map((one) => [utc(one.time), price(one.open), price(one.high), price(one.low), price(one.close), String(one.volume)]),
    );
  }

  #key(event) {
    const last = this.#shown.length - 1;
    if (last < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const from = this.#cursor ?? last + 1;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, PageUp: from - 20, PageDown: from + 20, Home: 0, End: last }[event.key];
    if (to !== undefined) this.#go(Math.max(0, Math.min(last, to)));
    else if (event.key === "+" || event.key === "=") this.#zoom(0.8);
    else if (event.key === "-") this.#zoom(1.25);
    else return;
    event.preventDefault();
  }

  #go(place) {
    this.#cursor = place;
    const candle = this.#shown[place];
    const scale = this.#chart.timeScale();
    this.#chart.setCrosshairPosition(candle.close, candle.time, this.#candles);
    const range = scale.getVisibleLogicalRange();
    if (range && (place < range.from + 2 || place > range.to - 2)) {
      const half = (range.to - range.from) / 2;
      scale.setVisibleLogicalRange({ from: place - half, to: place + half });
    }
    at("chart-said").textContent = this.#words(candle);
  }

  #zoom(factor) {
    const range = this.#chart.timeScale().getVisibleLogicalRange();
    if (!range) return;
    const width = Math.max(10, (range.to - range.from) * factor);
    this.#chart.timeScale().setVisibleLogicalRange({ from: range.to - width, to: range.to });
  }
}

const bar = ({ time, open, high, low, close }) => ({ time, open, high, low, close });
