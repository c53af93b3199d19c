// SPDX-License-Identifier: Apache-2.0
/** What WebGPU computes on. */

/** @returns {Promise<object|null>} what `describeAdapter` says; null where there is no WebGPU, or no adapter */
export async function findAdapter() {
  const adapter = await navigator.gpu?.requestAdapter();
  return adapter ? describeAdapter(adapter.info) : null;
}

/** Facts that can leave the page. @param {GPUAdapterInfo} info */
export function describeAdapter({ vendor, architecture, device, description, isFallbackAdapter }) {
  return { vendor, architecture, device, description, isFallbackAdapter };
}
