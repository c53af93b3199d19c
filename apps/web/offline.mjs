// SPDX-License-Identifier: Apache-2.0
/** The service worker: the page works offline, tells of a new version, and can be installed. */

import { toast } from "./toast.mjs";

/**
 * @param {HTMLElement} note says how far it is
 * @param {HTMLButtonElement} install shown where the browser offers it
 */
export async function goOffline(note, install) {
  offerInstall(install);
  if (!("serviceWorker" in navigator)) {
    note.textContent = "This browser keeps no copy for offline use.";
    return;
  }
  const hadOne = Boolean(navigator.serviceWorker.controller);
  let isReloading = false;
  navigator.serviceWorker.addEventListener("controllerchange", () => {
    if (hadOne && !isReloading) {
      isReloading = true;
      location.reload();
    }
  });
  try {
    const registration = await navigator.serviceWorker.register("./sw.js", { updateViaCache: "none" });
    note.textContent = registration.active ? "Ready for offline use." : "Saving a copy for offline use…";
    if (registration.waiting) offerUpdate(registration);
    registration.addEventListener("updatefound", () => {
      const found = registration.installing;
      found.addEventListener("statechange", () => {
        if (found.state === "installed" && registration.active) offerUpdate(registration);
        if (found.state === "activated") note.textContent = "Ready for offline use.";
        if (found.state === "redundant" && !registration.active) note.textContent = "No copy for offline use.";
      });
    });
    await navigator.serviceWorker.ready;
    note.textContent = "Ready for offline use.";
  } catch (error) {
    note.textContent = `No copy for offline use: ${error.message}`;
  }
}

function offerUpdate(registration) {
  toast("A new version is here.", {
    action: "Reload",
    isLasting: true,
    act: () => registration.waiting?.postMessage("take over"),
  });
}

function offerInstall(button) {
  addEventListener("beforeinstallprompt", (event) => {
    event.preventDefault();
    button.hidden = false;
    button.onclick = async () => {
      await event.prompt();
      button.hidden = true;
    };
  });
  addEventListener("appinstalled", () => (button.hidden = true));
}
