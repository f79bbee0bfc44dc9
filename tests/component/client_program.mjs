// Reads lines with [url, count, options of stream()]; streams until so many records have come or it fails, and writes a
// line with both.
import { createInterface } from "node:readline";

import { connect } from "mdserver-client";

async function stream(url, count, { symbols, key, ...options }) {
  const records = [];
  try {
    for await (const record of connect(url, { key: key ?? null }).stream(symbols, { firstPauseMs: 20, ...options })) {
      records.push(record);
      if (records.length >= count) break;
    }
  } catch (error) {
    return { records, error: { name: error.name, code: error.code ?? null, message: error.message } };
  }
  return { records, error: null };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await stream(...JSON.parse(line))));
}
