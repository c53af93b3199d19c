// SPDX-License-Identifier: Apache-2.0
/** Short messages at the foot of the page. */

const SHOWN_MS = 6000;

/** @param {{action?: string, act?: () => void, isLasting?: boolean}} options a button, and whether it stays */
export function toast(text, { action, act, isLasting = false } = {}) {
  const box = document.createElement("div");
  box.className = "toast";
  const words = document.createElement("span");
  words.textContent = text;
  box.append(words);
  const close = () => box.remove();
  const button = document.createElement("button");
  button.textContent = action ?? "OK";
  button.onclick = () => {
    act?.();
    close();
  };
  box.append(button);
  document.getElementById("toasts").append(box);
  if (!isLasting) setTimeout(close, SHOWN_MS);
  return close;
}
