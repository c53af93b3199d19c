// SPDX-License-Identifier: Apache-2.0
/** The languages that the model was trained on: their own names, direction, and names of emoji. */

const TRIED = ["☂", "🍜", "🐘", "🚲", "🎂", "🌋", "🎸", "☕", "🦉", "⛵"]; // for the words to try
const KEY = "dmedge-language";

export class Languages {
  #names = new Map(); // tag -> promise of {character: name}

  /** @param {{tag: string, name: string, direction: string}[]} table  @param engine of rpc.mjs */
  constructor(table, engine) {
    this.engine = engine;
    this.table = table
      .map((language) => ({ ...language, own: ownName(language.tag) ?? language.name }))
      .sort((a, b) => a.name.localeCompare(b.name, "en"));
    this.chosen = this.#first();
  }

  get(tag) {
    return this.table.find((language) => language.tag === tag);
  }

  fill(select) {
    for (const { tag, name, own } of this.table) {
      const option = new Option(own === name ? name : `${name} · ${own}`, tag, false, tag === this.chosen);
      select.add(option);
    }
  }

  choose(tag) {
    this.chosen = tag;
    try {
      localStorage.setItem(KEY, tag);
    } catch {
      // storage may be off; the choice then lasts as long as the page
    }
  }

  /** Names of emoji in the chosen language, by character. */
  names(tag = this.chosen) {
    if (!this.#names.has(tag)) {
      const asked = this.engine.ask("names", { language: tag });
      asked.catch(() => this.#names.delete(tag));
      this.#names.set(tag, asked);
    }
    return this.#names.get(tag);
  }

  /** A few words of the chosen language. */
  async examples() {
    const names = await this.names();
    const plain = new Map(Object.entries(names).map(([character, name]) => [character.replace("\ufe0f", ""), name]));
    return TRIED.map((character) => plain.get(character)).filter((name) => name && name.length < 28).slice(0, 7);
  }

  /** The last choice, or the first language of the browser that the model knows. */
  #first() {
    const known = new Set(this.table.map(({ tag }) => tag));
    let last = null;
    try {
      last = localStorage.getItem(KEY);
    } catch {
      // storage may be off
    }
    const wanted = [last, ...navigator.languages.flatMap((tag) => [tag, tag.split("-")[0]]), "en"];
    return wanted.find((tag) => known.has(tag)) ?? this.table[0].tag;
  }
}

function ownName(tag) {
  try {
    const name = new Intl.DisplayNames([tag], { type: "language", fallback: "none" }).of(tag);
    return name ? name[0].toLocaleUpperCase(tag) + name.slice(1) : null;
  } catch {
    return null;
  }
}
