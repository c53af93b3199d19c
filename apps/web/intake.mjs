// SPDX-License-Identifier: Apache-2.0
/** Files that are picked, dropped on the page, or pasted. */

/**
 * @param {{button: HTMLButtonElement, input: HTMLInputElement, cover: HTMLElement}} parts `cover` shows while dragging
 * @param {(files: File[]) => Promise<void>} take
 */
export function takeFiles({ button, input, cover }, take) {
  button.onclick = () => input.click();
  input.onchange = async () => {
    await take([...input.files]);
    input.value = ""; // the same file may be picked again
  };

  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let depth = 0; // of elements that are dragged over
  const move = (change) => {
    depth = Math.max(0, depth + change);
    cover.hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && move(1));
  addEventListener("dragleave", (event) => hasFiles(event) && move(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    move(-depth);
    take([...event.dataTransfer.files]);
  });

  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter(({ type }) => type.startsWith("image/"));
    if (files.length) take(files);
  });
}
