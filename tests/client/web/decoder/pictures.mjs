// Synthetic pictures, and PNG as far as the tests need it: 8 and 16 bit, grey, RGB, each with alpha or without, not
// interlaced.
import {deflateSync, inflateSync} from 'node:zlib';

/** Seeded numbers of 0..1 (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Waves, a hard edge and some noise, other ones in each channel. */
export function picture(width, height, channels, bits, seed) {
  const largest = 2 ** bits - 1;
  const samples = bits === 16 ? new Uint16Array(width * height * channels) : new Uint8Array(width * height * channels);
  const next = random(seed);
  const phases = Array.from({length: channels}, () => 6 * next());
  for (let y = 0, i = 0; y < height; ++y) {
    for (let x = 0; x < width; ++x) {
      for (let c = 0; c < channels; ++c) {
        const waves = Math.sin(x / 9 + phases[c]) + Math.sin(y / 23 - x / 31 + 2 * phases[c]);
        const edge = x * 2 + y > width ? 0.4 : 0;
        samples[i++] = Math.max(0, Math.min(largest, (0.35 + 0.12 * waves + edge + 0.06 * next()) * largest));
      }
    }
  }
  return {width, height, channels, bits, samples};
}

/** Rectangles of one colour each, as on a screen: coded as a drawing, without the lapped filter. */
export function drawing(width, height, channels, seed) {
  const samples = new Uint8Array(width * height * channels).fill(240);
  const next = random(seed);
  for (let i = 0; i < 60; ++i) {
    const left = Math.floor(next() * width);
    const top = Math.floor(next() * height);
    const right = Math.min(width, left + 3 + Math.floor(next() * 40));
    const bottom = Math.min(height, top + 2 + Math.floor(next() * 12));
    const color = Array.from({length: channels}, () => Math.floor(256 * next()));
    for (let y = top; y < bottom; ++y) {
      for (let x = left; x < right; ++x) samples.set(color, (y * width + x) * channels);
    }
  }
  return {width, height, channels, bits: 8, samples};
}

/** CRC-32 as in PNG and in .holo files. */
export function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; ++bit) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

const kSignature = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
const kColorTypes = {1: 0, 2: 4, 3: 2, 4: 6};

export function toPng({width, height, channels, bits, samples}) {
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(data.length, 0);
    body.copy(out, 4);
    out.writeUInt32BE(crc32(body), out.length - 4);
    return out;
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header[8] = bits;
  header[9] = kColorTypes[channels];
  const rowSamples = width * channels;
  const rowBytes = rowSamples * bits / 8;
  const raw = Buffer.alloc(height * (rowBytes + 1));
  for (let y = 0; y < height; ++y) {
    for (let i = 0; i < rowSamples; ++i) {
      const at = y * (rowBytes + 1) + 1;
      if (bits === 16) raw.writeUInt16BE(samples[y * rowSamples + i], at + 2 * i);
      else raw[at + i] = samples[y * rowSamples + i];
    }
  }
  return Buffer.concat([kSignature, chunk('IHDR', header), chunk('IDAT', deflateSync(raw, {level: 1})),
    chunk('IEND', Buffer.alloc(0))]);
}

export function fromPng(png) {
  let width = 0, height = 0, bits = 0, channels = 0;
  const parts = [];
  for (let at = 8; at < png.length;) {
    const bytes = png.readUInt32BE(at);
    const type = png.toString('latin1', at + 4, at + 8);
    const data = png.subarray(at + 8, at + 8 + bytes);
    if (type === 'IHDR') {
      [width, height, bits] = [data.readUInt32BE(0), data.readUInt32BE(4), data[8]];
      channels = {0: 1, 4: 2, 2: 3, 6: 4}[data[9]];
      if (!channels || bits < 8 || data[12] !== 0) throw new Error('png: expected 8 or 16 bit, no palette, one pass');
    } else if (type === 'IDAT') {
      parts.push(data);
    }
    at += bytes + 12;
  }
  const raw = inflateSync(Buffer.concat(parts));
  const pixelBytes = channels * bits / 8;
  const rowBytes = width * pixelBytes;
  const out = Buffer.alloc(height * rowBytes);
  for (let y = 0; y < height; ++y) {
    const filter = raw[y * (rowBytes + 1)];
    for (let i = 0; i < rowBytes; ++i) {
      const at = y * rowBytes + i;
      const left = i >= pixelBytes ? out[at - pixelBytes] : 0;
      const up = y > 0 ? out[at - rowBytes] : 0;
      const corner = i >= pixelBytes && y > 0 ? out[at - rowBytes - pixelBytes] : 0;
      const toLeft = Math.abs(up - corner), toUp = Math.abs(left - corner), toCorner = Math.abs(left + up - 2 * corner);
      const paeth = toLeft <= toUp && toLeft <= toCorner ? left : toUp <= toCorner ? up : corner;
      out[at] = raw[y * (rowBytes + 1) + 1 + i] + [0, left, up, (left + up) >> 1, paeth][filter];
    }
  }
  const samples = bits === 16 ? new Uint16Array(width * height * channels) : new Uint8Array(width * height * channels);
  for (let i = 0; i < samples.length; ++i) samples[i] = bits === 16 ? out.readUInt16BE(2 * i) : out[i];
  return {width, height, channels, bits, samples};
}
