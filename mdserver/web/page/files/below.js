// What stands below the chart. It is loaded behind the first candle, which it would delay.

export { showBrokers } from "./brokers.js";
export { Prices } from "./prices.js";
export { openGaps, showGaps, showStored } from "./stored.js";
