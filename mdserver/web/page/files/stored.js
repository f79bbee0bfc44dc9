// What is stored of the chart's symbol, a year of days as a heat map; and the log of gaps.

import { ask, now } from "./server.js";
import { at, element, fill, length, utc } from "./show.js";

const DAY_S = 86_400;
const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const GAP_DAYS = 31;
const GAPS_SHOWN = 100;
const MOST_GAPS = 10_000;

/** Show the coverage of a symbol. */
export async function showStored(symbol, signal) {
  try {
    const { body } = await ask("api/coverage", { symbol }, { signal });
    const series = body.series.filter((one) => one.days.length);
    at("stored-message").textContent = series.length ? `${symbol}, the last year, by day (UTC)` : `Nothing of ${symbol} in the last year.`;
    at("coverage").replaceChildren(...series.flatMap(map));
  } catch (error) {
    if (signal.aborted) return;
    at("stored-message").textContent = `${symbol}: ${error.message}`;
    at("coverage").replaceChildren();
  }
}

function map({ broker, record_type: type, days }) {
  const open = days.filter((day) => day.open_hours > 0);
  const whole = open.filter((day) => kind(day) === "whole").length;
  const records = days.reduce((sum, day) => sum + day.records, 0);
  const text = `${broker}, ${type}s: ${records.toLocaleString("en")} records; ${whole} of ${open.length} market days whole`;
  const box = element("div", "days");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", text);
  box.append(calendar(days));
  return [element("h3", "", text), box, months(days)];
}

/** How much of a day's open hours is there. */
function kind(day) {
  const expected = Math.min(day.open_hours, elapsedHours(day));
  if (day.failed_hours > 0 || day.gap_s >= 60) return "failed";
  if (day.hours > 0 && expected <= 0) return "whole";
  if (expected <= 0) return "closed";
  const share = (day.hours + day.empty_hours) / expected;
  if (share >= 1) return "whole";
  return share >= 0.5 ? "most" : share > 0 ? "some" : "missing";
}

const elapsedHours = (day) => Math.min(24, Math.floor((now() - day.time) / 3600));

function words(day) {
  const parts = [`${new Date(day.time * 1000).toISOString().slice(0, 10)}: ${day.records.toLocaleString("en")} records`];
  parts.push(`${day.hours} of ${day.open_hours} open hours`);
  if (day.empty_hours) parts.push(`${day.empty_hours} confirmed empty`);
  if (day.failed_hours) parts.push(`${day.failed_hours} not imported`);
  if (day.gap_s) parts.push(`${length(day.gap_s)} in gaps`);
  return parts.join(", ");
}

function calendar(days) {
  const table = document.createElement("table");
  table.setAttribute("aria-hidden", "true"); // the months below say it in words
  const weekday = (time) => (Math.floor(time / DAY_S) + 3) % 7; // 1970 began on a Thursday
  const start = days[0].time - weekday(days[0].time) * DAY_S;
  const byTime = new Map(days.map((day) => [day.time, day]));
  const body = table.createTBody();
  WEEKDAYS.forEach((name, n) => {
    const row = body.insertRow();
    row.append(element("th", "", n % 2 ? "" : name));
    for (let time = start + n * DAY_S; time <= days.at(-1).time; time += 7 * DAY_S) {
      const day = byTime.get(time);
      const box = element("span", `day ${day ? kind(day) : "future"}`);
      if (day) box.title = words(day);
      row.insertCell().append(box);
    }
  });
  return table;
}

function months(days) {
  const found = new Map();
  for (const day of days) {
    const name = new Date(day.time * 1000).toISOString().slice(0, 7);
    const month = found.get(name) ?? { whole: 0, partly: 0, missing: 0, failed: 0, closed: 0, records: 0 };
    const what = kind(day);
    month[what === "most" || what === "some" ? "partly" : what] += 1;
    month.records += day.records;
    found.set(name, month);
  }
  const box = document.createElement("details");
  box.append(element("summary", "", "By month, in numbers"));
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const name of ["Month", "Whole days", "Partly", "Nothing", "Failed or in a gap", "Records"]) {
    const cell = element("th", "", name);
    cell.scope = "col";
    head.append(cell);
  }
  const rows = [...found].reverse().map(([name, m]) => [name, m.whole, m.partly, m.missing, m.failed, m.records.toLocaleString("en")]);
  fill(table.createTBody(), rows);
  box.append(table);
  return box;
}

/** Show the gaps of a month, of one symbol or of all; return those of the symbol. */
export async function showGaps(symbol, signal) {
  const all = at("gaps-all").checked;
  try {
    const query = { symbol: all ? "" : symbol, from: Math.floor(now() - GAP_DAYS * DAY_S), limit: MOST_GAPS };
    const { body } = await ask("api/gaps", query, { signal });
    const rows = body.gaps.reverse();
    fill(at("gaps").querySelector("tbody"), rows.slice(0, GAPS_SHOWN).map(gapCells));
    const more = rows.length > GAPS_SHOWN ? ` The newest ${GAPS_SHOWN} of ${body.more ? "more than " : ""}${rows.length}.` : "";
    at("gaps-message").textContent = rows.length ? more : `None in the last ${GAP_DAYS} days.`;
  } catch (error) {
    if (signal.aborted) return;
    at("gaps-message").textContent = error.message;
  }
}

function gapCells(gap) {
  return [
    utc(gap.from),
    gap.to === null ? "goes on" : length(gap.to - gap.from),
    gap.broker,
    gap.symbol,
    gap.record_type,
    gap.cause,
    gap.size === null ? "not known" : String(gap.size),
    element("span", gap.state === "open" ? "down" : "", gap.state),
  ];
}

/** Return the open gaps of a symbol since a time, as the chart shades them. */
export async function openGaps(symbol, broker, from, signal) {
  const query = { symbol, broker, from: Math.floor(from), state: "open", limit: MOST_GAPS };
  return (await ask("api/gaps", query, { signal })).body.gaps;
}
