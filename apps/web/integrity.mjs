// SPDX-License-Identifier: Apache-2.0
/**
 * Files of the site, each handed out only if its sha256 is the one that was written down when the site was built.
 *
 * The chain: the page names nothing but site.json; site.json holds the digest of the bundle and of the index, and the
 * sha256 of everything else; the manifests of bundle and index are held to their digests, and their files to them.
 */

const AT_ONCE = 4; // files that are fetched at a time
const utf8 = new TextDecoder();

/** A file is missing or differs from what was written down. */
export class IntegrityError extends Error {}

/** Reads files below `base`. */
export class Files {
  #kept; // path -> ArrayBuffer, until it is let go

  /**
   * @param {URL} base of the site
   * @param {Record<string, {size_bytes: number, sha256: string}>} digests
   * @param {Map<string, ArrayBuffer>} kept files that were read and checked already
   */
  constructor(base, digests, kept) {
    Object.assign(this, { base, digests });
    this.#kept = kept;
  }

  /** Bytes of a file. @param {string} path below the site @returns {Promise<ArrayBuffer>} */
  async read(path) {
    if (this.#kept.has(path)) return this.#kept.get(path);
    const want = this.digests[path];
    if (!want) throw new IntegrityError(`${path}: site.json does not name it; build the site again`);
    const content = await fetchBytes(new URL(path, this.base));
    const found = await sha256(content);
    if (found !== want.sha256) {
      const [got, expected] = [found, want.sha256].map((hex) => hex.slice(0, 12));
      throw new IntegrityError(`${path}: sha256 ${got} differs from ${expected}, as it was built; deploy it again`);
    }
    return content;
  }

  async text(path) {
    return utf8.decode(await this.read(path));
  }

  async json(path) {
    return JSON.parse(await this.text(path));
  }

  /** Read many files, a few at a time, and keep their bytes for `read`. @param {(bytes: number) => void} advance */
  async keep(paths, advance) {
    const waiting = [...paths];
    const next = async () => {
      for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
        this.#kept.set(path, await this.read(path));
        advance(this.digests[path].size_bytes);
      }
    };
    const all = Promise.all(Array.from({ length: AT_ONCE }, next));
    await all.catch((error) => {
      waiting.length = 0; // nothing more is fetched
      throw error;
    });
  }

  /** Forget the bytes of all that `keep` has read. */
  letGo() {
    this.#kept.clear();
  }
}

/** site.json, and the manifests of the bundle and the index that it names, after checking their digests. */
export async function readSite(base) {
  if (!globalThis.crypto?.subtle) {
    throw new IntegrityError("files cannot be checked here: serve the site over https, or from localhost");
  }
  const site = JSON.parse(utf8.decode(await fetchBytes(new URL("site.json", base))));
  const [manifests, kept] = [{}, new Map()];
  for (const kind of ["bundle", "index"]) {
    const content = await fetchBytes(new URL(`${kind}/manifest.json`, base));
    const text = utf8.decode(content);
    const found = await manifestDigest(text);
    if (found !== site[kind].digest) {
      const [got, expected] = [found, site[kind].digest].map((hex) => hex.slice(0, 12));
      throw new IntegrityError(`${kind}/manifest.json: its digest is ${got}, not ${expected}; deploy the site again`);
    }
    manifests[kind] = JSON.parse(text);
    kept.set(`${kind}/manifest.json`, content);
  }
  const made = manifests.index.parents.bundle;
  if (made !== site.bundle.digest) {
    throw new IntegrityError(`the index was made by the bundle ${made.slice(0, 12)}, not by this one; build it again`);
  }
  const digests = { ...site.files };
  for (const [kind, { files }] of Object.entries(manifests)) {
    for (const [name, digest] of Object.entries(files)) digests[`${kind}/${name}`] = digest; // the manifests decide
  }
  return { site, manifests, files: new Files(base, digests, kept) };
}

/**
 * Digest of a manifest: the sha256 of its text without its own digest and without spaces between the values.
 *
 * dmedge writes manifests sorted and indented by two, so the canonical form is this text, not a new one: numbers are
 * written otherwise by Python than by JavaScript.
 */
export function manifestDigest(text) {
  const rest = text.replace(/^ {2}"digest": "[0-9a-f]{64}",\n/m, "");
  let canonical = "";
  for (const [part] of rest.matchAll(/"(?:[^"\\]|\\.)*"|[^"\s]+/g)) canonical += part;
  return sha256(new TextEncoder().encode(canonical));
}

async function sha256(content) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function fetchBytes(url) {
  const response = await fetch(url).catch((error) => {
    throw new IntegrityError(`${url.pathname}: cannot be fetched (${error.message}); connect, or deploy it again`);
  });
  if (!response.ok) throw new IntegrityError(`${url.pathname}: status ${response.status}; deploy the site again`);
  return response.arrayBuffer();
}
