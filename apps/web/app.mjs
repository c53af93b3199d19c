// SPDX-License-Identifier: Apache-2.0
/** The page: what is typed and what is found. Everything that takes time happens in the worker. */

import { Details } from "./details.mjs";
import { Thumbnails, fillGrid, focusTile, moveByArrows } from "./grid.mjs";
import { takeFiles } from "./intake.mjs";
import { Languages } from "./languages.mjs";
import { goOffline } from "./offline.mjs";
import { OwnPictures } from "./own.mjs";
import { PicturePanel } from "./picture.mjs";
import { Engine } from "./rpc.mjs";
import { toast } from "./toast.mjs";
import { searchAsTyped } from "./typing.mjs";

const PAGE = 48; // pictures shown at first, and with each "Show more"

const at = (id) => document.getElementById(id);
const field = at("query");
const engine = new Engine();

let loaded, languages, own, thumbnails, details, panel, names;
let shown = PAGE;

at("retry").onclick = () => location.reload();
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector(".close").onclick = () => dialog.close();
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
}
start().catch(fail);

async function start() {
  const wish = new URLSearchParams(location.search).get("provider"); // ?provider=wasm or webgpu, to compare
  loaded = await engine.ask("load", { wish }, showLoading);
  const { manifests, site, items, sheets } = loaded;
  languages = new Languages(site.languages, engine);
  thumbnails = new Thumbnails(manifests.index.summary.thumbnails, sheets, items.length);
  details = new Details(at("details"), engine, loaded);
  own = new OwnPictures(engine, site.index.digest);
  panel = new PicturePanel(at("picture"), { engine, languages, thumbnails, items, describe, searchFor, remove });
  await own.restore();
  for (const { id, preview } of own.all()) thumbnails.own.set(id, URL.createObjectURL(preview));
  languages.fill(at("language"));
  const hash = new URLSearchParams(location.hash.slice(1));
  if (languages.get(hash.get("language"))) languages.choose(hash.get("language"));
  at("language").value = languages.chosen;
  field.value = hash.get("q") ?? "";
  at("scope").hidden = own.size === 0;
  wire();
  await useLanguage();
  at("loading").hidden = true;
  for (const id of ["query", "language", "add"]) at(id).disabled = false;
  if (matchMedia("(hover: hover)").matches) field.focus(); // on a phone the keyboard would cover the page
  await show(field.value);
  document.body.dataset.ready = "yes";
  if (loaded.note) toast(loaded.note, { isLasting: true });
  goOffline(at("offline"), at("install"));
}

function showLoading({ done, total }) {
  const [have, all] = [done, total].map((bytes) => (bytes / 1e6).toFixed(0));
  at("loading-bar").value = done / total;
  at("loading-text").textContent = done < total ? `Checking files: ${have} of ${all} MB` : "Loading the model…";
}

/** A file that is not what it should be, or anything else that keeps the page from working. */
function fail(error) {
  at("loading").hidden = true;
  at("failure").hidden = false;
  at("failure-text").textContent = error.message;
  document.body.dataset.ready = "failed";
}

function wire() {
  const search = searchAsTyped(field, async (text, since) => {
    shown = PAGE;
    await show(text, since);
  });
  at("search").onsubmit = (event) => event.preventDefault();
  at("clear").onclick = () => {
    field.value = "";
    search();
    field.focus();
  };
  at("chips").onclick = ({ target }) => target.tagName === "BUTTON" && searchFor(target.textContent);
  at("language").onchange = async ({ target }) => {
    languages.choose(target.value);
    await useLanguage();
    search();
  };
  at("scope").onchange = search;
  at("more").onclick = async () => {
    const from = shown;
    shown += PAGE;
    await show(field.value);
    focusTile(tiles(), from);
  };
  moveByArrows(at("results"), () => field.focus());
  moveByArrows(at("similar"));
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // keys belong to the input method
    if (event.key === "ArrowDown") {
      event.preventDefault();
      focusTile(tiles(), 0);
    } else if (event.key === "Escape" && field.value) {
      at("clear").click();
    }
  });
  addEventListener("keydown", (event) => {
    const isTyping = event.target.matches?.("input, select, textarea");
    if (event.key === "/" && !isTyping && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      field.focus();
    }
  });
  at("open-details").onclick = () => details.open();
  at("open-licences").onclick = async () => {
    at("licences").showModal();
    at("licences-text").textContent = await engine.ask("licences").catch((error) => error.message);
  };
  takeFiles({ button: at("add"), input: at("pick"), cover: at("drop") }, addAll);
}

function tiles() {
  return [...at("results").querySelectorAll(".tile")];
}

/** Names, words to try and direction of the chosen language. */
async function useLanguage() {
  const { tag, direction } = languages.get(languages.chosen);
  try {
    names = await languages.names();
  } catch (error) {
    toast(error.message);
    names = {};
  }
  for (const id of ["results", "similar", "words", "chips"]) Object.assign(at(id), { lang: tag, dir: direction });
  field.lang = tag;
  const examples = await languages.examples().catch(() => []);
  at("chips").replaceChildren(
    ...examples.map((word) => Object.assign(document.createElement("button"), { textContent: word, dir: "auto" })),
  );
}

function searchFor(text) {
  field.value = text;
  shown = PAGE;
  return show(text);
}

/** Rank the pictures for a text and show the best; without a text, all as they come. */
async function show(text, since = performance.now()) {
  const query = text.trim();
  const scope = document.querySelector("[name=scope]:checked").value;
  const total = countIn(scope);
  const of = `${total.toLocaleString("en")} pictures`;
  at("clear").hidden = !text;
  if (query) {
    let found;
    try {
      found = await engine.ask("search", { text: query, top: shown, scope });
    } catch (error) {
      at("status").textContent = error.message;
      return;
    }
    const pictures = found.matches.map(({ key, score }) => ({ ...describe(key), score }));
    fillGrid(at("results"), pictures, thumbnails, (key) => panel.open(key));
    const ms = performance.now() - since;
    details.noteQuery(ms);
    const [best] = pictures; // its name is isolated, since it may run leftwards
    const words = best ? `; best: \u2068${best.name}\u2069, ${best.score.toFixed(2)}` : "";
    at("status").textContent = `${pictures.length} of ${of}, ${ms.toFixed(0)} ms on this device${words}`;
  } else {
    const mine = scope === "gallery" ? [] : own.all().map(({ id }) => id);
    const others = scope === "own" ? [] : [...loaded.items.keys()];
    const keys = [...mine, ...others].slice(0, shown);
    fillGrid(at("results"), keys.map(describe), thumbnails, (key) => panel.open(key));
    at("status").textContent = of;
  }
  at("more").hidden = shown >= total;
  const hash = new URLSearchParams({ q: query, language: languages.chosen });
  history.replaceState(null, "", query ? `#${hash}` : location.pathname + location.search);
}

function countIn(scope) {
  return (scope === "own" ? 0 : loaded.items.length) + (scope === "gallery" ? 0 : own.size);
}

/** What a picture is called, in the chosen language where it has a name there. */
function describe(key) {
  if (typeof key !== "number") return { key, name: own.get(key).name };
  const { char, name } = loaded.items[key];
  const translated = char && names[char];
  return translated ? { key, name: translated, lang: languages.chosen } : { key, name, lang: char ? "en" : undefined };
}

async function addAll(files) {
  let added = 0;
  let isKept = true;
  for (const [i, file] of files.entries()) {
    at("status").textContent = `Adding ${i + 1} of ${files.length}`;
    try {
      const found = await own.add(file);
      thumbnails.own.set(found.picture.id, URL.createObjectURL(found.picture.preview));
      isKept &&= found.isKept;
      added += 1;
    } catch (error) {
      toast(error.message);
    }
  }
  if (added) {
    toast(`${added} ${added === 1 ? "picture" : "pictures"} added${isKept ? "" : ", until this page is closed"}.`);
  }
  at("scope").hidden = own.size === 0;
  await show(field.value);
}

async function remove(id) {
  await own.remove(id);
  URL.revokeObjectURL(thumbnails.own.get(id));
  thumbnails.own.delete(id);
  if (own.size === 0) document.querySelector("[name=scope][value=all]").checked = true;
  at("scope").hidden = own.size === 0;
  await show(field.value);
}
