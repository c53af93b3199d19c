// SPDX-License-Identifier: Apache-2.0
/** Arrays that numpy wrote: .npy, and .npz, which is a zip archive of them. */

const TYPES = {
  "|i1": Int8Array,
  "|u1": Uint8Array,
  "<i4": Int32Array,
  "<f4": Float32Array,
};

/** @param {ArrayBuffer} content of a .npy file @returns {{shape: number[], data: TypedArray}} */
export function readNpy(content) {
  const view = new DataView(content);
  const isLong = view.getUint8(6) > 1; // version of the format
  const start = isLong ? 12 : 10;
  const size = isLong ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(new Uint8Array(content, start, size));
  const dtype = /'descr': '([^']+)'/.exec(header)?.[1];
  const shape = /'shape': \(([^)]*)\)/.exec(header)?.[1].split(",").filter((part) => part.trim()).map(Number);
  const type = TYPES[dtype];
  if (!type || !shape || !header.includes("'fortran_order': False")) {
    throw new Error(`an array is ${header.trim()}; expected one of ${Object.keys(TYPES).join(", ")} in C order`);
  }
  return { shape, data: new type(content.slice(start + size)) };
}

/** @param {ArrayBuffer} content of a .npz file @returns {Promise<Map<string, {shape: number[], data: TypedArray}>>} */
export async function readNpz(content) {
  const view = new DataView(content);
  const names = new TextDecoder();
  let end = content.byteLength - 22; // the record that ends the archive, in front of a comment if there is one
  while (end > 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  const arrays = new Map();
  let at = view.getUint32(end + 16, true);
  for (let entry = 0; entry < view.getUint16(end + 10, true); entry++) {
    const [method, size] = [view.getUint16(at + 10, true), view.getUint32(at + 20, true)];
    const [nameSize, extra, comment] = [28, 30, 32].map((place) => view.getUint16(at + place, true));
    const name = names.decode(new Uint8Array(content, at + 46, nameSize)).replace(/\.npy$/, "");
    const local = view.getUint32(at + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const packed = content.slice(start, start + size);
    arrays.set(name, readNpy(method === 0 ? packed : await inflate(packed)));
    at += 46 + nameSize + extra + comment;
  }
  return arrays;
}

function inflate(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).arrayBuffer();
}
