// SPDX-License-Identifier: Apache-2.0
/** What WebGPU computes on. */

const TRIES = 5;
const PAUSE_MS = 500;

/** @returns {Promise<object|null>} what `describeAdapter` says; null where there is no WebGPU, or no adapter */
export async function findAdapter() {
  for (let tries = TRIES; navigator.gpu && tries > 0; tries--) {
    const adapter = await navigator.gpu.requestAdapter();
    if (adapter) return describeAdapter(adapter.info);
    await new Promise((done) => setTimeout(done, PAUSE_MS)); // on a busy machine the browser's GPU process starts late
  }
  return null;
}

/** Facts that can leave the page. @param {GPUAdapterInfo} info */
export function describeAdapter({ vendor, architecture, device, description, isFallbackAdapter }) {
  return { vendor, architecture, device, description, isFallbackAdapter };
}
