// SPDX-License-Identifier: Apache-2.0
/** What may be said of latencies: the middle of any, the tail of enough. */

const ENOUGH = 20; // samples for a 90th percentile

/** @param {number[]} samples in ms @returns {{n: number, p50_ms: number|null, p90_ms: number|null}} */
export function percentiles(samples) {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (share) => Number(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))].toFixed(2));
  return {
    n: sorted.length,
    p50_ms: sorted.length ? at(0.5) : null,
    p90_ms: sorted.length >= ENOUGH ? at(0.9) : null,
  };
}
