// The server: questions over HTTP, the key, the clock.

import { at, length, notice } from "./show.js";

/** Relative to the page, so that it also works behind a path prefix. */
export const BASE = new URL(".", document.baseURI).href.replace(/\/$/, "");

const KEPT = "mdserver-key";
const CLOCK_OFF_S = 5;
const PART_AGAIN_MS = 5000;

let key = sessionStorage.getItem(KEPT);
let asking = null;
let offsetS = 0;

/** A question that failed. `again`: it may go better later. */
export class Failed extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    Object.assign(this, { status, code, again: status === 0 || status >= 500 || status === 429 });
  }
}

/** The server's time in Unix seconds, whatever the clock here shows. */
export const now = () => Date.now() / 1000 + offsetS;

/** The key of this tab, null without one. */
export const currentKey = () => key;

/** Load a part of the page that the first candle does not need: `part(() => import("./part.js"))`. */
export async function part(load) {
  for (;;) {
    try {
      const loaded = await load();
      notice("part", "");
      return loaded;
    } catch (error) {
      notice("part", `A part of this page is not loaded yet: ${error.message}. Tried again every few seconds; else reload the page.`);
      await new Promise((resolve) => setTimeout(resolve, PART_AGAIN_MS));
    }
  }
}

/** Ask for a key, once for all that need one; it is kept for this tab. */
export function askKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = at("key");
    at("key-reason").textContent = reason;
    at("key-value").value = "";
    at("key-form").onsubmit = (event) => {
      event.preventDefault();
      key = at("key-value").value.trim();
      if (!key) return;
      sessionStorage.setItem(KEPT, key);
      asking = null;
      dialog.close();
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault(); // nothing works without it
    dialog.showModal();
  });
  return asking;
}

/** Return `{body, headers}` of a route. Asks for a key where one is needed; raises Failed. */
export async function ask(path, query = {}, { signal, cache } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const url = `${BASE}/${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
  for (;;) {
    const used = key;
    const limit = AbortSignal.timeout(15_000);
    let response, text;
    try {
      response = await fetch(url, {
        headers: used === null ? {} : { Authorization: `Bearer ${used}` },
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
        cache,
      });
      text = await response.text();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Failed("the server cannot be reached");
    }
    if (response.status === 401) {
      // Another question may have brought the key meanwhile.
      if (used === key) await askKey(used === null ? "Without a key it shows nothing." : "The key is not valid.");
      continue;
    }
    let body = null;
    try {
      body = JSON.parse(text);
    } catch {
      throw new Failed(`${response.status}: the answer is no JSON; is a proxy in between?`, response.status);
    }
    if (!response.ok) throw new Failed(body.detail ?? String(response.status), response.status, body.code);
    if (cache === "no-store") readClock(response.headers.get("Date"));
    return { body, headers: response.headers };
  }
}

function readClock(date) {
  const servers = Date.parse(date ?? "") / 1000 + 0.5; // the header has whole seconds
  if (Number.isNaN(servers)) return;
  const off = servers - Date.now() / 1000;
  offsetS = Math.abs(off) < CLOCK_OFF_S ? 0 : off;
  const way = off < 0 ? "ahead of" : "behind";
  notice("clock", offsetS && `The clock of this computer is ${length(Math.abs(off))} ${way} the server's; times here are the server's.`);
}
