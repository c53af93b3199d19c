// SPDX-License-Identifier: Apache-2.0
/** The words of a language, embedded on this device when they are first asked for, and kept for the next time. */

import { Rows } from "./rows.mjs";
import { openStore } from "./store.mjs";

const CHUNK = 64; // words between two looks at what else is to be done

export class WordRows {
  #loaded = new Map(); // language -> promise of {names, rows}

  /** @param {{files, site, embed: (text: string) => Promise<Float32Array>, width: number}} options */
  constructor({ files, site, embed, width }) {
    Object.assign(this, { files, site, embed, width });
  }

  /** @param {(progress: {done: number, total: number}) => void} report */
  of(language, report) {
    if (!this.#loaded.has(language)) {
      const loading = this.#load(language, report);
      loading.catch(() => this.#loaded.delete(language));
      this.#loaded.set(language, loading);
    }
    return this.#loaded.get(language);
  }

  async #load(language, report) {
    const table = await this.files.json(`words/${language}.json`); // null where the language has no name
    const names = [...new Set(table.filter(Boolean))];
    const key = `${language} ${this.site.index.digest} ${this.files.digests[`words/${language}.json`].sha256}`;
    const store = await openStore().catch(() => null); // a private window may have none
    const kept = await store?.get("words", key).catch(() => null);
    if (kept) return { names, rows: new Rows(kept.codes, kept.scales, this.width) };
    const embeddings = [];
    for (let start = 0; start < names.length; start += CHUNK) {
      for (const name of names.slice(start, start + CHUNK)) embeddings.push(await this.embed(name));
      report({ done: embeddings.length, total: names.length });
      await new Promise((next) => setTimeout(next)); // a query that waits goes first
    }
    const rows = Rows.fromEmbeddings(embeddings, this.width);
    await store?.put("words", { codes: rows.codes, scales: rows.scales }, key).catch(() => {});
    return { names, rows };
  }
}
