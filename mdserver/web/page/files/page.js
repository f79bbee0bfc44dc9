// The page: what is chosen, and who shows it.

import { Candles, SECONDS } from "./candles.js";
import { Chart } from "./chart.js";
import { ask, now, part } from "./server.js";
import { at, length, notice, utc } from "./show.js";

const SLEPT_S = 150; // a hidden tab's timers may come once a minute
const METADATA_MS = 30_000;
const GAPS_MS = 30_000;
const STORED_MS = 300_000;
const OPTIONS_SHOWN = 100;
const TYPING_MS = 200; // connecting anew at each letter would be in vain
const CHART_FIRST_MS = 1000; // the longest that all else waits for the first candle

const address = new URLSearchParams(location.search);
const chosen = {
  symbol: (address.get("symbol") ?? "").toUpperCase(),
  timeframe: address.get("timeframe") ?? "1m",
  price: address.get("price") ?? "",
  align: address.get("align") ?? "",
  broker: address.get("broker") ?? "",
};
if (!(chosen.timeframe in SECONDS)) chosen.timeframe = "1m";

let symbols = []; // rows of /api/metadata
let candles = null;
let stopShown = new AbortController();
let gapsTimer = null;
let filterTimer = null;

let prices = null; // until what stands below the chart is loaded
let chartSeen;
const below = new Promise((resolve) => {
  chartSeen = resolve;
  setTimeout(resolve, CHART_FIRST_MS);
}).then(() => part(() => import("./below.js")));
const chart = new Chart(at("chart"), () => loadEarlier());

async function fillBelow() {
  const { Prices, showBrokers } = await below;
  prices = new Prices({
    choose: (symbol) => {
      choose({ symbol, broker: "" });
      at("chart").scrollIntoView({ block: "nearest" });
      at("chart").focus({ preventScroll: true });
    },
    state: connectionState,
    status: () => showBrokers(),
    gap: () => gapsSoon(),
  });
  showBrokers();
  if (symbols.length) showPrices();
  else refreshSymbols();
  setInterval(refreshSymbols, METADATA_MS);
  setInterval(() => !document.hidden && showGaps(chosen.symbol, stopShown.signal), GAPS_MS);
  setInterval(() => !document.hidden && showStored(chosen.symbol, stopShown.signal), STORED_MS);
}

async function showGaps(symbol, signal) {
  const part = await below;
  if (!signal.aborted) await part.showGaps(symbol, signal);
}

async function showStored(symbol, signal) {
  const part = await below;
  if (symbol && !signal.aborted) await part.showStored(symbol, signal);
}

async function loadEarlier() {
  if (await candles?.earlier()) shadeGaps();
}

/** Show what is chosen now. */
function show() {
  const { symbol, timeframe, broker } = chosen;
  stopShown.abort();
  stopShown = new AbortController();
  candles?.stop();
  remember();
  at("symbol").value = symbol;
  document.title = `${symbol} – mdserver`;
  chart.clear(SECONDS[timeframe], `Candles of ${symbol}, ${timeframe}`);
  if (!symbol) return;
  const on = {
    reset: (list) => {
      chart.reset(list);
      at("main").dataset.ready = symbol;
      if (!list.length) return;
      shadeGaps();
      requestAnimationFrame(() => setTimeout(chartSeen));
    },
    update: (candle, isOld) => chart.update(candle, isOld),
    message: (text) => {
      if (text) chartSeen();
      if (at("chart-message").textContent !== text) at("chart-message").textContent = text;
    },
    sources: (names) => (at("source").title = `these answered: ${names.join(", ") || "none"}`),
  };
  candles = new Candles({ ...chosen, broker }, on);
  showSources(symbol, stopShown.signal);
  showStored(symbol, stopShown.signal);
  showGaps(symbol, stopShown.signal);
}

function choose(change) {
  Object.assign(chosen, change);
  for (const name of ["timeframe", "price", "align"]) at(name).value = chosen[name];
  at("source").value = chosen.broker;
  show();
}

/** The address can be kept and sent to others. */
function remember() {
  const given = Object.entries(chosen).filter(([name, value]) => value && !(name === "timeframe" && value === "1m"));
  history.replaceState(null, "", given.length ? `?${new URLSearchParams(given)}` : location.pathname);
}

async function showSources(symbol, signal) {
  await below;
  if (signal.aborted) return;
  try {
    const { body } = await ask("api/metadata", { symbol }, { signal });
    const options = [["", "all, joined"], ...body.brokers.map(({ broker }) => [broker, broker])];
    at("source").replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    at("source").value = chosen.broker;
  } catch {
    // the chart says what is wrong with the symbol
  }
}

async function shadeGaps() {
  const { symbol, broker } = chosen;
  const { signal } = stopShown;
  const { openGaps } = await below;
  const first = candles?.list[0]?.time;
  if (first === undefined || signal.aborted) return;
  try {
    const gaps = await openGaps(symbol, broker, first, signal);
    if (!signal.aborted) chart.gaps(gaps);
  } catch {
    // the log of gaps says why
  }
}

function gapsSoon() {
  clearTimeout(gapsTimer);
  gapsTimer = setTimeout(() => {
    shadeGaps();
    showGaps(chosen.symbol, stopShown.signal);
  }, 500);
}

async function refreshSymbols() {
  try {
    const { body } = await ask("api/metadata");
    symbols = body.symbols;
    suggest();
    showPrices();
    if (!chosen.symbol && symbols.length) {
      const newest = symbols.reduce((best, one) => ((one.latest ?? 0) > (best.latest ?? 0) ? one : best));
      choose({ symbol: newest.symbol });
    }
    if (!symbols.length) at("chart-message").textContent = "No symbol is configured, and nothing is stored.";
    notice("metadata", "");
    return true;
  } catch (error) {
    notice("metadata", `What is stored is not known: ${error.message}. Tried again every half minute.`);
    if (error.code === "unavailable" && chosen.symbol) prices?.show([chosen.symbol], 1);
    return false;
  }
}

function suggest() {
  const names = matching(at("symbol").value).slice(0, OPTIONS_SHOWN);
  at("symbols").replaceChildren(...names.map((name) => new Option(name, name)));
}

/** Follow the symbols that the filter leaves. */
function showPrices() {
  prices?.show(matching(at("prices-filter").value), symbols.length);
}

function matching(typed) {
  const part = typed.toUpperCase().replace(/[^\p{L}\p{N}]/gu, "");
  return symbols.map((one) => one.symbol).filter((name) => name.includes(part));
}

function connectionState(state, why) {
  const place = at("connection");
  place.className = state === "live" ? "up" : "down";
  place.textContent = state === "live" ? `live, ${why}` : `connection lost (${why}); connecting again …`;
  place.dataset.state = state;
  if (state !== "live") return;
  notice("slept", "");
  candles?.hurry();
  below.then(({ showBrokers }) => showBrokers());
  gapsSoon();
}

/** After a sleep of the machine the connections are dead, even if they do not know it yet. */
function noticeSleep() {
  let last = Date.now();
  const look = () => {
    const slept = (Date.now() - last) / 1000;
    last = Date.now();
    if (slept < SLEPT_S) return;
    notice("slept", `This page slept for ${length(slept)}, until ${utc(now())} UTC. It catches up …`);
    prices?.again();
    candles?.again();
    showStored(chosen.symbol, stopShown.signal);
    refreshSymbols();
  };
  setInterval(look, 5000);
  document.addEventListener("visibilitychange", look);
}

function connectControls() {
  at("timeframe").replaceChildren(...Object.keys(SECONDS).map((name) => new Option(name, name)));
  for (const name of ["timeframe", "price", "align"]) {
    at(name).value = chosen[name];
    at(name).onchange = () => choose({ [name]: at(name).value });
  }
  at("source").onchange = () => choose({ broker: at("source").value });
  at("symbol").oninput = suggest;
  at("symbol").onchange = () => {
    const symbol = at("symbol").value.toUpperCase().replace(/[\s/_-]/g, "");
    if (symbol && symbol !== chosen.symbol) choose({ symbol, broker: "" });
  };
  at("symbol").onfocus = () => at("symbol").select();
  at("prices-filter").oninput = () => {
    clearTimeout(filterTimer);
    filterTimer = setTimeout(showPrices, TYPING_MS);
  };
  at("gaps-all").onchange = () => showGaps(chosen.symbol, stopShown.signal);
}

connectControls();
if (chosen.symbol) show();
else refreshSymbols();
fillBelow();
noticeSleep();
