// SPDX-License-Identifier: Apache-2.0
/** One picture, looked at: its best words in the chosen language, and what looks like it. */

import { copyText } from "./details.mjs";
import { fillGrid } from "./grid.mjs";

const SIMILAR = 12;
const WORDS = 8;

export class PicturePanel {
  #key = null; // of the picture that is open

  /**
   * @param {HTMLDialogElement} dialog
   * @param {{engine, languages, thumbnails, items, describe, searchFor, remove}} page what it asks, and what it calls
   */
  constructor(dialog, page) {
    Object.assign(this, { dialog, page });
    dialog.addEventListener("close", () => (this.#key = null));
  }

  /** @param {number|string} key place in the index, or id of an own picture */
  async open(key) {
    const { engine, languages, thumbnails, describe } = this.page;
    this.#key = key;
    this.#showName(key);
    this.#part("view").replaceChildren(thumbnails.element(key, describe(key).name));
    this.#part("language").textContent = `in ${languages.get(languages.chosen).name}`;
    this.#part("words").replaceChildren();
    this.#part("similar").replaceChildren();
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.querySelector(".body").scrollTop = 0;
    const { matches } = await engine.ask("similar", { key, top: SIMILAR });
    if (this.#key !== key) return;
    const pictures = matches.map((match) => ({ ...describe(match.key), score: match.score }));
    fillGrid(this.#part("similar"), pictures, thumbnails, (other) => this.open(other));
    await this.#showWords(key);
  }

  #showName(key) {
    const isOwn = typeof key !== "number";
    const { name, lang } = this.page.describe(key);
    const { char, name: english } = isOwn ? {} : this.page.items[key];
    Object.assign(this.#part("name"), { textContent: name, lang: lang ?? "" });
    const facts = char ? `${char}  ${english}` : "";
    this.#part("facts").textContent = isOwn ? "Added by you; it stays on this device." : facts;
    const [copy, remove] = [this.#part("copy"), this.#part("remove")];
    copy.hidden = !char;
    copy.textContent = `Copy ${char}`;
    copy.onclick = () => copyText(char, copy);
    remove.hidden = !isOwn;
    remove.onclick = () => {
      this.dialog.close();
      this.page.remove(key);
    };
  }

  async #showWords(key) {
    const { engine, languages } = this.page;
    const status = this.#part("status");
    const report = ({ done, total }) => {
      if (this.#key === key) status.textContent = `Reading the words of this language, once: ${done} of ${total}`;
    };
    status.textContent = "";
    try {
      const found = await engine.ask("bestWords", { key, language: languages.chosen, top: WORDS }, report);
      if (this.#key !== key) return;
      status.textContent = "";
      this.#part("words").replaceChildren(...found.map((word) => this.#wordRow(word)));
    } catch (error) {
      status.textContent = error.message;
    }
  }

  #wordRow({ word, score }) {
    const [button, bar] = [document.createElement("button"), document.createElement("i")];
    const [text, number] = [document.createElement("span"), document.createElement("span")];
    bar.style.width = `${Math.round(100 * Math.max(0, Math.min(1, score)))}%`;
    Object.assign(text, { textContent: word, dir: "auto" });
    number.textContent = score.toFixed(2);
    button.title = "Search for this word";
    button.append(bar, text, number);
    button.onclick = () => {
      this.dialog.close();
      this.page.searchFor(word);
    };
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  #part(name) {
    return this.dialog.querySelector(`[data-part=${name}]`);
  }
}
