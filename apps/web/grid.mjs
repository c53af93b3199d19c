// SPDX-License-Identifier: Apache-2.0
/** Pictures as a grid of buttons: one stop of the Tab key, arrows within. */

/** Something to draw the thumbnail of a picture with: the sheets of the index, or a picture of the user. */
export class Thumbnails {
  /** @param {{columns: number, per_sheet: number}} layout  @param {Blob[]} sheets  @param {number} count */
  constructor(layout, sheets, count) {
    Object.assign(this, { layout, count });
    this.urls = sheets.map((sheet) => URL.createObjectURL(sheet));
    this.own = new Map(); // id -> URL
  }

  /** @param {number|string} key place in the index, or id of an own picture */
  element(key, label = "") {
    const thumb = document.createElement("span");
    thumb.className = "thumb";
    if (label) {
      thumb.setAttribute("role", "img");
      thumb.setAttribute("aria-label", label);
    }
    if (typeof key !== "number") {
      thumb.style.backgroundImage = `url("${this.own.get(key)}")`;
      return thumb;
    }
    const { columns, per_sheet: perSheet } = this.layout;
    const [sheet, place] = [Math.floor(key / perSheet), key % perSheet];
    const held = Math.min(perSheet, this.count - sheet * perSheet);
    const [across, down] = [Math.min(columns, held), Math.ceil(held / columns)];
    const share = (at, of) => (of > 1 ? (100 * at) / (of - 1) : 0);
    thumb.style.backgroundImage = `url("${this.urls[sheet]}")`;
    thumb.style.backgroundSize = `${across * 100}% ${down * 100}%`;
    thumb.style.backgroundPosition = `${share(place % columns, across)}% ${share(Math.floor(place / columns), down)}%`;
    return thumb;
  }
}

/**
 * Fill a list with tiles.
 *
 * @param {HTMLUListElement} list
 * @param {{key, name: string, lang?: string, score?: number}[]} pictures
 * @param {Thumbnails} thumbnails
 * @param {(key) => void} choose
 */
export function fillGrid(list, pictures, thumbnails, choose) {
  list.replaceChildren(...pictures.map((picture, place) => tile(picture, thumbnails, choose, place)));
}

function tile({ key, name, lang, score }, thumbnails, choose, place) {
  const button = document.createElement("button");
  button.className = "tile";
  button.tabIndex = place === 0 ? 0 : -1;
  button.dataset.key = String(key);
  const caption = document.createElement("span");
  caption.className = "caption";
  caption.dir = "auto";
  if (lang) caption.lang = lang;
  caption.textContent = name;
  button.append(thumbnails.element(key), caption);
  if (score !== undefined) {
    const bar = document.createElement("span");
    bar.className = "score";
    const fill = document.createElement("i");
    fill.style.width = `${Math.round(100 * Math.max(0, Math.min(1, score)))}%`;
    bar.append(fill);
    button.append(bar);
    button.title = `${name} (${score.toFixed(3)})`;
  }
  button.onclick = () => choose(key);
  const item = document.createElement("li");
  item.append(button);
  return item;
}

/** Arrow keys, Home and End move within a grid; up from its first row leaves it. @param {() => void} leave */
export function moveByArrows(list, leave = () => {}) {
  list.addEventListener("keydown", (event) => {
    const tiles = [...list.querySelectorAll(".tile")];
    const at = tiles.indexOf(document.activeElement);
    if (at < 0) return;
    const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
    const ahead = getComputedStyle(list).direction === "rtl" ? -1 : 1;
    const steps = { ArrowRight: ahead, ArrowLeft: -ahead, ArrowDown: columns, ArrowUp: -columns };
    const ends = { Home: 0, End: tiles.length - 1 };
    const next = event.key in ends ? ends[event.key] : at + steps[event.key];
    if (Number.isNaN(next)) return;
    event.preventDefault();
    if (next < 0) leave();
    else focusTile(tiles, Math.min(next, tiles.length - 1));
  });
}

/** Focus one tile and make it the stop of the Tab key. */
export function focusTile(tiles, place) {
  tiles.forEach((button, at) => (button.tabIndex = at === place ? 0 : -1));
  tiles[place]?.focus();
}
