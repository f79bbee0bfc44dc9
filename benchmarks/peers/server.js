'use strict';
// Market data servers on npm `ws` to compare with: the same requests, records and pace as mdserver's mock broker.
//
//   node server.js --port 9001 --variant naive|encode-once|framed [--rate 2000] [--burst 1] [--window 5]
//
// naive        what one writes first: for every tick, over all clients, stringify and send
// encode-once  what a careful author writes: one Buffer per tick, a Set of clients per symbol, no compression
// framed       past the library's interface: one complete WebSocket frame per tick, and one socket.write per
//              client and pass (a burst; with --window, whatever came up in so many ms)
//
// --rate is in ticks/s over all symbols wanted, handed out in turn; 0 is flat out. --burst is how many ticks make
// a pass. All variants stop making ticks while any client has more than HIGH_WATER_BYTES waiting.

const http = require('node:http');
const { parseArgs } = require('node:util');
const { WebSocket, WebSocketServer } = require('ws');

const HIGH_WATER_BYTES = 64 * 1024;
const PACE_MS = 2; // as mdserver's mock broker: ticks that fall due meanwhile follow in one turn

const { values: options } = parseArgs({
  options: {
    port: { type: 'string' },
    variant: { type: 'string' },
    rate: { type: 'string', default: '0' },
    burst: { type: 'string', default: '1' },
    window: { type: 'string', default: '0' },
  },
});
const rate = Number(options.rate);
const burst = Number(options.burst);
const windowMs = Number(options.window);

// ---- ticks -------------------------------------------------------------------------------------------------

class Instrument {
  constructor(symbol) {
    this.symbol = symbol;
    this.seq = 0;
    this.points = 20000 + Math.floor(Math.random() * 20000);
    this.clients = new Set();
  }

  next() {
    this.points = Math.max(1000, this.points + Math.floor(Math.random() * 3) - 1);
    const spread = 1 + Math.floor(Math.random() * 5);
    return {
      type: 'tick',
      broker: 'mock',
      symbol: this.symbol,
      seq: ++this.seq,
      time: Math.round((performance.timeOrigin + performance.now()) * 1000) / 1e6,
      bid: (this.points - spread) / 100,
      ask: this.points / 100,
      bid_size: 100 * (1 + Math.floor(Math.random() * 1000)),
      ask_size: 100 * (1 + Math.floor(Math.random() * 1000)),
    };
  }
}

const instruments = new Map();
let wanted = []; // instruments with at least one client
let turn = 0;

// ---- ways to send ------------------------------------------------------------------------------------------

function sendNaively(tick) {
  for (const client of server.clients) {
    if (client.readyState === WebSocket.OPEN && client.symbols.has(tick.symbol)) client.send(JSON.stringify(tick));
  }
}

const SEND_OPTIONS = { binary: false, compress: false, fin: true };

function sendEncodedOnce(tick, instrument) {
  const payload = Buffer.from(JSON.stringify(tick));
  for (const client of instrument.clients) {
    if (client.readyState === WebSocket.OPEN) client.send(payload, SEND_OPTIONS);
  }
}

function frameOf(tick) {
  const text = JSON.stringify(tick);
  const length = Buffer.byteLength(text);
  const header = length < 126 ? 2 : 4;
  const frame = Buffer.allocUnsafe(header + length);
  frame[0] = 0x81;
  if (header === 2) {
    frame[1] = length;
  } else {
    frame[1] = 126;
    frame.writeUInt16BE(length, 2);
  }
  frame.write(text, header);
  return frame;
}

let owing = []; // clients that are owed frames
let flushTimer = null;

function keepFramed(tick, instrument) {
  const frame = frameOf(tick);
  for (const client of instrument.clients) {
    if (client.owed.length === 0) owing.push(client);
    client.owed.push(frame);
  }
}

function flushFrames() {
  flushTimer = null;
  for (const client of owing) {
    const frames = client.owed;
    client.owed = [];
    if (client.readyState === WebSocket.OPEN) {
      client._socket.write(frames.length === 1 ? frames[0] : Buffer.concat(frames));
    }
  }
  owing = [];
}

function endFramedPass() {
  if (windowMs === 0) flushFrames();
  else if (flushTimer === null) flushTimer = setTimeout(flushFrames, windowMs);
}

const nothing = () => {};
const variant = {
  naive: { send: sendNaively, endPass: nothing },
  'encode-once': { send: sendEncodedOnce, endPass: nothing },
  framed: { send: keepFramed, endPass: endFramedPass },
}[options.variant];
if (variant === undefined || !options.port) {
  console.error('usage: node server.js --port PORT --variant naive|encode-once|framed [--rate R] [--burst B]');
  process.exit(2);
}

// ---- pace --------------------------------------------------------------------------------------------------

function congested() {
  for (const client of server.clients) if (client.bufferedAmount > HIGH_WATER_BYTES) return true;
  return false;
}

function pass() {
  for (let i = 0; i < burst; i += 1) {
    turn = (turn + 1) % wanted.length;
    variant.send(wanted[turn].next(), wanted[turn]);
  }
  variant.endPass();
}

function runFlatOut() {
  if (wanted.length === 0 || congested()) {
    setTimeout(runFlatOut, 1);
    return;
  }
  pass();
  setImmediate(runFlatOut);
}

let origin = performance.now();
let made = 0;

function runPaced() {
  const now = performance.now();
  let due = Math.floor(((now - origin) / 1000) * rate) - made;
  if (wanted.length === 0 || congested()) {
    made += due; // what could not be sent is not made up for
  } else {
    for (; due >= burst; due -= burst) {
      pass();
      made += burst;
    }
  }
  setTimeout(runPaced, PACE_MS);
}

// ---- clients -----------------------------------------------------------------------------------------------

function select(client, symbols) {
  for (const symbol of symbols) {
    if (!instruments.has(symbol)) instruments.set(symbol, new Instrument(symbol));
    instruments.get(symbol).clients.add(client);
    client.symbols.add(symbol);
  }
  wanted = [...instruments.values()].filter((instrument) => instrument.clients.size > 0);
}

function forget(client) {
  for (const symbol of client.symbols) instruments.get(symbol).clients.delete(client);
  client.symbols.clear();
  wanted = [...instruments.values()].filter((instrument) => instrument.clients.size > 0);
}

const listener = http.createServer((request, response) => response.end('ok\n'));
const server = new WebSocketServer({ server: listener, perMessageDeflate: false });

server.on('connection', (client) => {
  client.symbols = new Set();
  client.owed = [];
  client.on('error', () => {}); // a reset is followed by close
  client.on('close', () => forget(client));
  client.send('{"type":"status","message":"Connected"}');
  client.on('message', (data) => {
    const request = JSON.parse(data);
    if (request.action !== 'subscribe') return;
    select(client, request.symbols);
    client.send(JSON.stringify({ type: 'ack', action: 'subscribe', results: [] }));
  });
});

listener.listen({ port: Number(options.port), host: '127.0.0.1', backlog: 4096 }, rate > 0 ? runPaced : runFlatOut);
process.on('SIGTERM', () => process.exit(0));
