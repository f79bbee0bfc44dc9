// Streams until COUNT ticks have come; prints "go" after the first 100, then the gaps and numbers as JSON.
import { connect } from "mdserver-client";

const [url, count] = process.argv.slice(2);
const seqs = [];
const gaps = [];
for await (const batch of connect(url).batches(["EURUSD"], { types: ["tick"], broker: "mock" })) {
  for (const record of batch) {
    if (record.type === "gap") gaps.push(record);
    else if (seqs.push(record.seq) === 100) console.log("go");
  }
  if (seqs.length >= Number(count)) break;
}
console.log(JSON.stringify({ seqs, gaps }));
