// SPDX-License-Identifier: Apache-2.0
/** Pictures of the user: embedded by the worker, kept in IndexedDB with a preview, searched with the rest. */

import { openStore } from "./store.mjs";

const PREVIEW = 320; // pixels of the longest side
const LARGEST = 60_000_000; // bytes of a file; nothing that is meant to be a picture has more

export class OwnPictures {
  #pictures = new Map(); // id -> {id, name, added, index, row, preview}

  /** @param engine of rpc.mjs  @param {string} index digest of the index whose numbers a row holds */
  constructor(engine, index) {
    Object.assign(this, { engine, index });
  }

  get size() {
    return this.#pictures.size;
  }

  get(id) {
    return this.#pictures.get(id);
  }

  all() {
    return [...this.#pictures.values()].sort((a, b) => b.added - a.added);
  }

  /** Bring back what was kept. A row of another index is made again, from the preview. */
  async restore() {
    const store = await openStore().catch(() => null);
    for (const picture of (await store?.all("pictures").catch(() => [])) ?? []) {
      try {
        if (picture.index !== this.index) {
          const { row } = await this.engine.ask("embedPicture", { id: picture.id, blob: picture.preview });
          Object.assign(picture, { row, index: this.index });
          await store.put("pictures", picture);
        }
        this.#pictures.set(picture.id, picture);
      } catch {
        // this one is left out, and is no reason to show nothing
      }
    }
    await this.engine.ask("remember", this.all().map(({ id, row }) => [id, row]));
  }

  /**
   * Add one file.
   *
   * @returns {Promise<{picture: object, isKept: boolean}>} not kept where this browser has no storage
   * @throws {Error} it is no picture that this browser decodes
   */
  async add(file) {
    if (file.size > LARGEST) throw new Error(`${file.name}: ${Math.round(file.size / 1e6)} MB; expected at most 60 MB`);
    const content = await file.arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const id = Array.from(digest.subarray(0, 12), (byte) => byte.toString(16).padStart(2, "0")).join("");
    const blob = new Blob([content], { type: file.type });
    let preview, row;
    try {
      preview = await makePreview(blob);
      ({ row } = await this.engine.ask("embedPicture", { id, blob }));
    } catch {
      throw new Error(`${file.name}: this browser cannot decode it; expected PNG, JPEG, WebP or alike`);
    }
    const picture = { id, name: file.name || "pasted picture", added: Date.now(), index: this.index, row, preview };
    this.#pictures.set(id, picture);
    const isKept = await openStore().then((store) => store.put("pictures", picture)).then(() => true, () => false);
    return { picture, isKept };
  }

  async remove(id) {
    this.#pictures.delete(id);
    await this.engine.ask("forget", id);
    await openStore().then((store) => store.delete("pictures", id)).catch(() => {});
  }
}

async function makePreview(blob) {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, PREVIEW / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/webp", quality: 0.85 });
}
