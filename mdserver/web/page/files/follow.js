// A live subscription that lasts: it connects again by itself, and each connection begins afresh.

import { connect } from "./client.js";
import { BASE, askKey, currentKey } from "./server.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;
const REFUSED_PAUSE_MS = 30_000;

/**
 * Follow symbols until `stop()`. What lies in the past is asked for over HTTP, so no connection resumes the one before:
 * a tab that slept a night wants the prices of now.
 *
 * on.batch(records), on.state("live" | "lost", why), on.status(message), on.refused(results, message)
 */
export class Follow {
  #symbols;
  #options;
  #on;
  #stream = null;
  #ended = false;
  #hurry = null;
  #pauseMs = FIRST_PAUSE_MS;

  constructor(symbols, options, on) {
    this.#symbols = symbols;
    this.#options = options;
    this.#on = on;
    this.#run();
  }

  stop() {
    this.#ended = true;
    this.again();
  }

  /** Connect anew at once. */
  again() {
    this.#pauseMs = FIRST_PAUSE_MS;
    this.#stream?.close();
    this.#hurry?.();
  }

  /** Wait no longer: the server is there again. */
  hurry() {
    this.#hurry?.();
  }

  async #run() {
    while (!this.#ended) {
      let pause = null;
      try {
        await this.#connection();
      } catch (error) {
        if (this.#ended) return;
        if (error.name === "NotAuthenticated") {
          await askKey(error.message.includes("401") ? "Without a key it shows nothing." : "The key is not valid.");
          continue;
        }
        if (error.name === "Refused") {
          this.#on.refused?.(error.results, error.message);
          pause = REFUSED_PAUSE_MS;
        } else this.#on.state?.("lost", error.message);
      }
      if (this.#ended) return;
      await this.#wait(pause ?? this.#pauseMs * (0.75 + Math.random() / 2));
      this.#pauseMs = Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
    }
  }

  async #connection() {
    const stream = connect(BASE, { key: currentKey() }).stream(this.#symbols, {
      ...this.#options,
      onStatus: (message) => {
        if (this.#stream !== stream) return;
        if (message.state === "disconnected") {
          this.#on.state?.("lost", message.message);
          setTimeout(() => stream.close()); // behind what the stream itself does now, which is to connect again
        } else if (message.state === "connected") {
          this.#pauseMs = FIRST_PAUSE_MS;
          this.#on.state?.("live", message.message);
        } else if (message.type === "refused") this.#on.refused?.(message.results, message.results[0].message);
        else this.#on.status?.(message);
      },
    });
    this.#stream = stream;
    try {
      for await (const batch of stream.batches()) if (!this.#ended) this.#on.batch?.(batch);
    } finally {
      stream.close();
      this.#stream = null;
    }
  }

  #wait(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    }).finally(() => (this.#hurry = null));
  }
}
