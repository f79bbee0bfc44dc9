// The brokers: states and last errors.

import { ask } from "./server.js";
import { at, element, fill, utc } from "./show.js";

const EVERY_MS = 3000;

let timer = null;

/** Show the brokers now, and every few seconds from now on. */
export async function showBrokers() {
  clearTimeout(timer);
  try {
    // no-store: the answer's Date is the server's clock
    const { body } = await ask("api/brokers", {}, { cache: "no-store" });
    fill(at("brokers").querySelector("tbody"), body.brokers.map(cells));
    at("brokers-message").textContent = body.brokers.length ? "" : "The config has no broker.";
  } catch (error) {
    at("brokers-message").textContent = `Not known now: ${error.message}`;
  }
  clearTimeout(timer);
  timer = setTimeout(showBrokers, EVERY_MS);
}

function cells(broker) {
  const state = element("span", `state state-${broker.state}`, broker.state);
  const refused = Object.entries(broker.refused).map(([feed, why]) => `${feed}: ${why}`);
  const error = element("span", "", [broker.last_error, ...refused].filter(Boolean).join("; ") || "–");
  error.dataset.long = "";
  return [
    broker.broker,
    state,
    utc(broker.since),
    `${broker.active} of ${broker.feeds}`,
    broker.last_event === null ? "–" : utc(broker.last_event),
    error,
  ];
}
