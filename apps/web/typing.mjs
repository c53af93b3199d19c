// SPDX-License-Identifier: Apache-2.0
/** From keys to queries: the newest text is searched, one at a time, and input methods are given time. */

const COMPOSING_MS = 250; // a pause while an input method is at work; until then its text is half a word

/**
 * Call `search` with the text of a field whenever it changes.
 *
 * @param {HTMLInputElement} field
 * @param {(text: string, since: number) => Promise<void>} search `since` is when the last key was taken in
 * @returns {() => void} to call when the text was changed by the page
 */
export function searchAsTyped(field, search) {
  let isRunning = false;
  let waiting = null; // {text, since}
  let timer;

  async function run() {
    if (isRunning) return;
    isRunning = true;
    while (waiting) {
      const { text, since } = waiting;
      waiting = null;
      await search(text, since);
    }
    isRunning = false;
  }

  function changed() {
    clearTimeout(timer);
    waiting = { text: field.value, since: performance.now() };
    run();
  }

  field.addEventListener("input", (event) => {
    clearTimeout(timer);
    if (event.isComposing) timer = setTimeout(changed, COMPOSING_MS);
    else changed();
  });
  field.addEventListener("compositionend", changed);
  return changed;
}
