// Prints an hour of candles and then live ticks, also over restarts of the server.
import { connect, MdserverError, type Status } from "mdserver-client";

const [symbol = "EURUSD", url = "http://127.0.0.1:8080"] = process.argv.slice(2);

function show(status: Status): void {
  if (status.type === "status") console.error(`${status.broker ?? "connection"}: ${status.state}: ${status.message}`);
}

try {
  const client = connect(url);
  const now = Date.now() / 1000;
  for (const { time, open, close } of await client.candles(symbol, "1m", now - 3600, now)) console.log(time, open, close);
  const { close } = await client.candles(symbol, "1h", now - 86_400, now, { columns: true });
  console.log("highest close of a day", Math.max(...close));
  for await (const record of client.stream([symbol], { types: ["tick", "trade"], onStatus: show })) {
    if (record.type === "gap") console.log("records may be missing", record.from, record.to, record.cause);
    else if (record.type === "tick") console.log(record.seq, record.time, record.bid, record.ask);
    else console.log(record.seq, record.time, record.price, record.side ?? "");
  }
} catch (error) {
  if (!(error instanceof MdserverError)) throw error;
  console.error(error.message, error.code);
  process.exitCode = 1;
}
