'use strict';
// Decodes files with dukascopy-node, PASSES times over for each line on stdin; one line of JSON each on stdout.
// Usage: node decode.js INSTRUMENT ROOT PASSES PATH...   (PATH as in the datafeed, below ROOT)

const fs = require('fs');
const path = require('path');
const readline = require('readline');
const { processData, URL_ROOT } = require('dukascopy-node');

const [instrument, root, passes, ...paths] = process.argv.slice(2);
const bufferObjects = paths.map((name) => ({
  url: `${URL_ROOT}/${name}`, // it reads the hour from the address
  buffer: fs.readFileSync(path.join(root, name)),
}));

function pass() {
  const start = process.hrtime.bigint();
  let count = 0;
  let askSum = 0;
  for (const bufferObject of Array(Number(passes)).fill(bufferObjects).flat()) {
    const rows = processData({
      instrument,
      requestedTimeframe: 'tick',
      bufferObjects: [bufferObject],
      priceType: 'bid',
      volumes: true,
      volumeUnits: 'millions',
      ignoreFlats: true,
    });
    count += rows.length;
    for (const row of rows) askSum += Math.round(row[1] * 1e5);
  }
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  return { seconds, count, askSum };
}

readline.createInterface({ input: process.stdin }).on('line', () => {
  process.stdout.write(`${JSON.stringify(pass())}\n`);
});
