// Prints live ticks: node node-client.mjs [SYMBOL] [COUNT] [URL]
import process from "node:process";
import WebSocket from "ws";

const [symbol = "EURUSD", count = "10", url = "ws://127.0.0.1:8080/"] = process.argv.slice(2);
const ws = new WebSocket(url);
let left = Number(count);
let lastSeq;

ws.on("open", () => ws.send(JSON.stringify({ action: "subscribe", id: 1, symbols: [symbol] })));

ws.on("message", (data) => {
  if (left === 0) return; // one read may bring more messages than are wanted
  const message = JSON.parse(data);
  if (message.type === "error") {
    console.error(`error ${message.code}: ${message.message}`);
    process.exitCode = 1;
    ws.close();
  } else if (message.type === "tick") {
    const { seq, conflated = 0 } = message;
    if (lastSeq !== undefined && seq !== lastSeq + 1 + conflated) {
      console.error(`lost ${seq - lastSeq - 1 - conflated} ticks`);
      process.exitCode = 1;
    }
    lastSeq = seq;
    console.log(new Date(message.time * 1000).toISOString(), message.symbol, message.bid, message.ask, `#${seq}`);
    if (--left === 0) ws.close();
  }
});

ws.on("error", (error) => {
  console.error(`cannot reach ${url}: ${error.message}`);
  process.exitCode = 1;
});
