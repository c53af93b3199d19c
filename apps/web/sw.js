// SPDX-License-Identifier: Apache-2.0
/**
 * Keeps one version of the site for offline use. A file is kept only if its sha256 is the one that was written down.
 *
 * Answers carry the headers of the site, so on a host that sends none the page is isolated, and its worker bound to a
 * content security policy, from the second visit on.
 */

importScripts("./version.js"); // self.SITE = {version, headers: {name: value}, files: {path: sha256}}

const SCOPE = new URL("./", self.location);
const PREFIX = `dmedge ${SCOPE.pathname} `;
const CACHE = `${PREFIX}${self.SITE.version}`;
const AT_ONCE = 4;

self.addEventListener("install", (event) => event.waitUntil(fill()));
self.addEventListener("activate", (event) => event.waitUntil(takeOver()));
self.addEventListener("message", ({ data }) => {
  if (data === "take over") self.skipWaiting();
});
self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || !url.href.startsWith(SCOPE.href)) return;
  const path = url.pathname.slice(SCOPE.pathname.length) || "index.html";
  if (path in self.SITE.files) event.respondWith(answer(event.request, path));
});

async function answer(request, path) {
  const cache = await caches.open(CACHE);
  const response = (await cache.match(new URL(path, SCOPE))) ?? (await fetch(request));
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(self.SITE.headers)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

async function fill() {
  const cache = await caches.open(CACHE);
  const waiting = Object.entries(self.SITE.files);
  const next = async () => {
    for (let entry = waiting.pop(); entry; entry = waiting.pop()) {
      const [path, sha256] = entry;
      await cache.put(new URL(path, SCOPE), await checked(path, sha256));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, next));
}

/** From an older version where it did not change, else from the network. */
async function checked(path, sha256) {
  const url = new URL(path, SCOPE);
  const sources = [() => caches.match(url), () => fetch(url), () => fetch(url, { cache: "reload" })];
  for (const source of sources) {
    const response = await source();
    if (response?.ok && (await digest(response.clone())) === sha256) return response;
  }
  throw new Error(`${path}: its sha256 is not ${sha256.slice(0, 12)}; deploy the site again`);
}

async function digest(response) {
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", await response.arrayBuffer()));
  return Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function takeOver() {
  const names = await caches.keys();
  const older = names.filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(older.map((name) => caches.delete(name)));
  await self.clients.claim();
}
