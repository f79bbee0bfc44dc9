'use strict';
// A relay on npm `ws` to compare latency with: trades of a venue that speaks Binance's combined streams, to each client
// that subscribed. What a careful author writes: one JSON.stringify and one Buffer per trade, no compression.
//
//   node relay.js --port 9001 --venue ws://127.0.0.1:9000

const http = require('node:http');
const { parseArgs } = require('node:util');
const { WebSocket, WebSocketServer } = require('ws');

const { values: options } = parseArgs({ options: { port: { type: 'string' }, venue: { type: 'string' } } });
if (!options.port || !options.venue) {
  console.error('usage: node relay.js --port PORT --venue ws://HOST:PORT');
  process.exit(2);
}

const SEND_OPTIONS = { binary: false, compress: false, fin: true };
const clientsOf = new Map(); // symbol -> Set of clients
let lastSeq = 0;
let lastRequest = 0;

const venue = new WebSocket(`${options.venue}/stream`, { perMessageDeflate: false });

function relay(trade) {
  const clients = clientsOf.get(trade.s);
  if (clients === undefined) return;
  lastSeq += 1;
  const payload = Buffer.from(JSON.stringify({
    type: 'trade',
    broker: 'binance',
    symbol: trade.s,
    seq: lastSeq,
    time: trade.T / 1000,
    price: Number(trade.p),
    size: Number(trade.q),
    side: trade.m ? 'sell' : 'buy',
    trade_id: String(trade.t),
  }));
  for (const client of clients) if (client.readyState === WebSocket.OPEN) client.send(payload, SEND_OPTIONS);
}

venue.on('message', (data) => {
  const message = JSON.parse(data);
  if (message.stream !== undefined) relay(message.data);
});
venue.on('close', () => process.exit(1));

function subscribe(client, symbols) {
  const fresh = symbols.filter((symbol) => !clientsOf.has(symbol));
  for (const symbol of fresh) clientsOf.set(symbol, new Set());
  for (const symbol of symbols) clientsOf.get(symbol).add(client);
  if (fresh.length > 0) {
    const params = fresh.map((symbol) => `${symbol.toLowerCase()}@trade`);
    lastRequest += 1;
    venue.send(JSON.stringify({ method: 'SUBSCRIBE', params, id: lastRequest }));
  }
}

const listener = http.createServer((request, response) => response.end('ok\n'));
new WebSocketServer({ server: listener, perMessageDeflate: false }).on('connection', (client) => {
  client.on('error', () => {}); // a reset is followed by close
  client.on('close', () => clientsOf.forEach((clients) => clients.delete(client)));
  client.on('message', (data) => {
    const request = JSON.parse(data);
    if (request.action !== 'subscribe') return;
    subscribe(client, request.symbols);
    client.send(JSON.stringify({ type: 'ack', action: 'subscribe', results: [] }));
  });
});

venue.on('open', () => listener.listen({ port: Number(options.port), host: '127.0.0.1', backlog: 4096 }));
process.on('SIGTERM', () => process.exit(0));
