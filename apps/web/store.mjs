// SPDX-License-Identifier: Apache-2.0
/** What stays on this device: pictures that the user added, and words that were embedded. */

const NAME = `dmedge ${new URL("./", import.meta.url).pathname}`; // sites of one origin keep apart
const TABLES = { pictures: { keyPath: "id" }, words: {} };

let opened;

/** @returns {Promise<Store>} */
export function openStore() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      for (const [name, options] of Object.entries(TABLES)) request.result.createObjectStore(name, options);
    };
    request.onsuccess = () => resolve(new Store(request.result));
    request.onerror = () => reject(request.error);
  });
  return opened;
}

class Store {
  constructor(database) {
    this.database = database;
  }

  get(table, key) {
    return this.#ask(table, "readonly", (rows) => rows.get(key));
  }

  all(table) {
    return this.#ask(table, "readonly", (rows) => rows.getAll());
  }

  put(table, value, key) {
    return this.#ask(table, "readwrite", (rows) => rows.put(value, key));
  }

  delete(table, key) {
    return this.#ask(table, "readwrite", (rows) => rows.delete(key));
  }

  #ask(table, mode, question) {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(table, mode);
      const request = question(transaction.objectStore(table));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  }
}
