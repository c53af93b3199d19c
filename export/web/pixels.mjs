// SPDX-License-Identifier: Apache-2.0
/**
 * A decoded picture to the pixels that the image program takes, to the last bit as Pillow resizes it.
 *
 * Source: Pillow, src/libImaging/Resample.c, AlphaComposite.c and Geometry.c (ImagingScaleAffine).
 */

const PRECISION = 22; // bits behind the point of a weight: 32, less 8 of a pixel and 2 to spare
const LONGEST = 50; // times the short side, of a picture that is resized by its short side

const FILTERS = {
  "bilinear-antialiased": { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  "bicubic-antialiased": { support: 2, weight: bicubic },
  "lanczos-antialiased": { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
  nearest: null,
};

/**
 * Pixels as preprocessor_config.json describes them.
 *
 * @param {{width: number, height: number, data: Uint8ClampedArray}} picture RGBA, upright, alpha not multiplied in
 * @param {object} config of the bundle
 * @returns {Uint8Array} [size, size, 3]
 */
export function preprocess(picture, config) {
  const { size, background, fit, resample } = config;
  if (!(resample in FILTERS)) throw new Error(`preprocessing has resample ${resample}; this loader does not know it`);
  const rgb = flatten(picture, background);
  if (fit === "squash") return resize(rgb, size, size, resample).data;
  if (fit === "pad-centre") {
    const scale = size / Math.max(rgb.width, rgb.height);
    const [width, height] = [rgb.width, rgb.height].map((side) => Math.max(1, roundHalfEven(side * scale)));
    const resized = resize(rgb, width, height, resample);
    const square = new Uint8Array(size * size * 3).map((_, i) => background[i % 3]);
    paste(resized, 0, 0, square, size, (size - width) >> 1, (size - height) >> 1, width, height);
    return square;
  }
  if (fit === "crop-centre") {
    const short = Math.min(rgb.width, rgb.height);
    const middle = crop(rgb, Math.min(rgb.width, LONGEST * short), Math.min(rgb.height, LONGEST * short));
    const edge = config.shortest_edge;
    const scaled = (side) => (side === short ? edge : Math.trunc((edge * side) / short));
    const resized = resize(middle, scaled(middle.width), scaled(middle.height), resample);
    const square = new Uint8Array(size * size * 3);
    const across = overlap(resized.width, size);
    const down = overlap(resized.height, size);
    paste(resized, across.from, down.from, square, size, across.to, down.to, across.length, down.length);
    return square;
  }
  throw new Error(`preprocessing has fit ${fit}; this loader does not know it`);
}

/** RGBA on a plain background, as {width, height, data} with three bytes a pixel. */
function flatten({ width, height, data }, background) {
  const rgb = new Uint8Array(width * height * 3);
  for (let pixel = 0; pixel < width * height; pixel++) {
    const alpha = data[4 * pixel + 3];
    for (let channel = 0; channel < 3; channel++) {
      const blend = data[4 * pixel + channel] * alpha + background[channel] * (255 - alpha);
      const rounded = 128 * blend + 0x4000;
      rgb[3 * pixel + channel] = (((rounded >> 8) + rounded) >> 8) >> 7; // a division by 255
    }
  }
  return { width, height, data: rgb };
}

function resize(image, width, height, resample) {
  const filter = FILTERS[resample];
  if (filter === null) return nearest(image, width, height);
  const across = (from) => (width === from.width ? from : resizeLines(from, width, from.height, filter));
  const down = (from) => (height === from.height ? from : resizeLines(from, from.width, height, filter));
  const lost = { width: image.width - width, height: image.height - height };
  // The order decides how the first pass rounds. This is that of Pillow 13; older ones always went across first.
  const isDownFirst = lost.height > 0 && lost.height > 2 * lost.width;
  return isDownFirst ? across(down(image)) : down(across(image));
}

/** Resample rows to `width`, or else columns to `height`, with weights in fixed point. */
function resizeLines(image, width, height, filter) {
  const isAcross = width !== image.width;
  const [length, wanted, lines] = isAcross ? [image.width, width, height] : [image.height, height, width];
  const next = { from: isAcross ? 3 : 3 * image.width, to: isAcross ? 3 : 3 * width }; // bytes to the next of a line
  const line = { from: isAcross ? 3 * image.width : 3, to: isAcross ? 3 * width : 3 }; // and to the next line
  const data = new Uint8Array(width * height * 3);
  for (let place = 0; place < wanted; place++) {
    const { first, weights } = weightsOf(place, length, wanted, filter);
    for (let row = 0; row < lines; row++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 1 << (PRECISION - 1);
        let at = row * line.from + first * next.from + channel;
        for (const weight of weights) {
          sum += image.data[at] * weight;
          at += next.from;
        }
        data[row * line.to + place * next.to + channel] = Math.min(255, Math.max(0, sum >> PRECISION));
      }
    }
  }
  return { width, height, data };
}

/** Of one output pixel: the first input pixel it reads, and the weights of that and the following ones. */
function weightsOf(place, length, wanted, filter) {
  const scale = length / wanted;
  const blur = Math.max(1, scale);
  const support = filter.support * blur;
  const centre = (place + 0.5) * scale;
  const first = Math.max(0, Math.trunc(centre - support + 0.5));
  const end = Math.min(length, Math.trunc(centre + support + 0.5));
  const weights = Array.from({ length: end - first }, (_, i) => filter.weight((i + first - centre + 0.5) * (1 / blur)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const fixed = (weight) => Math.trunc((weight / (total || 1)) * 2 ** PRECISION + (weight < 0 ? -0.5 : 0.5));
  return { first, weights: weights.map(fixed) };
}

function nearest({ width, height, data }, wantedWidth, wantedHeight) {
  const places = (length, wanted) => {
    const step = length / wanted;
    let at = step * 0.5;
    return Array.from({ length: wanted }, () => [Math.min(length - 1, Math.trunc(at)), (at += step)][0]);
  };
  const out = new Uint8Array(wantedWidth * wantedHeight * 3);
  const columns = places(width, wantedWidth);
  places(height, wantedHeight).forEach((row, y) =>
    columns.forEach((column, x) => {
      const from = 3 * (row * width + column);
      out.set(data.subarray(from, from + 3), 3 * (y * wantedWidth + x));
    }),
  );
  return { width: wantedWidth, height: wantedHeight, data: out };
}

function paste(image, left, top, square, size, x, y, width, height) {
  for (let row = 0; row < height; row++) {
    const from = 3 * ((top + row) * image.width + left);
    square.set(image.data.subarray(from, from + 3 * width), 3 * ((y + row) * size + x));
  }
}

function crop(image, width, height) {
  if (width === image.width && height === image.height) return image;
  const data = new Uint8Array(width * height * 3);
  const [left, top] = [(image.width - width) >> 1, (image.height - height) >> 1];
  for (let row = 0; row < height; row++) {
    const from = 3 * ((top + row) * image.width + left);
    data.set(image.data.subarray(from, from + 3 * width), 3 * row * width);
  }
  return { width, height, data };
}

/** Where the middle of a `side` lies in a `size`, and what of the side that is; an odd pixel goes after a crop. */
function overlap(side, size) {
  if (side >= size) return { from: (side - size) >> 1, to: 0, length: size };
  return { from: 0, to: (size - side + 1) >> 1, length: side };
}

function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest === 0.5 ? floor + (floor % 2) : Math.round(value);
}

function bicubic(x) {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}
