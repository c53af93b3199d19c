// SPDX-License-Identifier: Apache-2.0
/** The page's end of the worker: a call is a promise. */

/** Something that the worker refuses; `isIntegrity` where a file is not what it should be. */
export class EngineError extends Error {
  constructor({ message, isIntegrity }) {
    super(message);
    this.isIntegrity = isIntegrity;
  }
}

export class Engine {
  #calls = new Map(); // id -> {resolve, reject, report}
  #next = 0;

  constructor() {
    this.worker = new Worker(new URL("./engine.mjs", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data: { id, value, error, progress } }) => {
      const call = this.#calls.get(id);
      if (progress !== undefined) {
        call?.report(progress); // what else was under way when a call failed may still report
        return;
      }
      this.#calls.delete(id);
      if (error) call.reject(new EngineError(error));
      else call.resolve(value);
    };
    this.worker.onerror = (event) => {
      const error = new EngineError({ message: event.message || "the worker did not start; use a newer browser" });
      for (const { reject } of this.#calls.values()) reject(error);
      this.#calls.clear();
    };
  }

  /** @param {string} call of engine.mjs  @param {(progress: any) => void} report */
  ask(call, argument, report = () => {}) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject, report });
      this.worker.postMessage({ id, call, argument });
    });
  }
}
