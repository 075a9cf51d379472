// Loads decoder.wasm, the decoder and renderer of the native programs, in a browser or in Node.
//
//   const decoder = await loadDecoder(fetch('decoder.wasm'));      // or its bytes, or a WebAssembly.Module
//   const asset = decoder.openHeader(opened.header);               // or openFile(bytes) for a .holo file, or its start
//   for (const basis of bases) asset.addBasis(basis);              // those that asset.info().missingBases names
//   const changed = asset.addChunk({layer, level, tile}, bytes);   // in any order; what looks different now
//   const {rect, data} = asset.render({region: changed});
//   asset.close();
//
// Pixels are those of `holo render`, byte for byte. What fails throws a HoloError, and everything goes on as before.
// Nothing here is asynchronous after loading: a page runs it in a worker. A loaded decoder's memory grows with what its
// assets hold and never shrinks; another loadDecoder() of the same WebAssembly.Module starts afresh.

/**
 * @typedef {{x: number, y: number, width: number, height: number}} Rect
 *
 * @typedef {object} Level
 * @property {number} width in samples of this level
 * @property {number} height
 * @property {number} patchPx 8 for level 0, 4 above, 1 for the top
 * @property {number} patchesX
 * @property {number} patchesY
 * @property {number} tilesX
 * @property {number} tilesY
 * @property {number} pxPerSample pixels of level 0 that a sample spans
 *
 * @typedef {object} AssetInfo
 * @property {number} width in pixels, as is `height`
 * @property {number} height
 * @property {number} channels alpha included
 * @property {8 | 16} bitsPerSample
 * @property {'generic' | 'gray' | 'rgb'} colorModel
 * @property {boolean} hasAlpha the last channel is straight alpha
 * @property {number} sourceOrientation EXIF's, applied already
 * @property {number} layers
 * @property {number} maxK basis dimensions kept per patch, 0: all
 * @property {Level[]} levels from the picture to the top
 * @property {string[]} bases hashes, 32 hexadecimal digits each
 * @property {string[]} missingBases of them those that addBasis() must bring before chunks and views
 * @property {number} receivedBytes of chunks
 * @property {number} memoryBytes chunks and decoded coefficients
 *
 * @typedef {object} ModuleInfo
 * @property {string} version
 * @property {number} formatVersion of .holo files
 * @property {string[]} builtInBases hashes of bases that need not be sent
 *
 * @typedef {object} View
 * @property {Rect} [region] in pixels of level 0, inside the picture; default: all
 * @property {number} [scaleLog2] the output is 1/2^scaleLog2 of the size, 0..24; default 0
 * @property {number} [k] basis dimensions used per patch; default 0: all
 * @property {boolean} [smooth] default true; false: the projection itself. Only whole sizes with all dimensions are
 *     smoothed, which takes twice the time: a page may leave it out while its view moves.
 * @property {'rgba8' | 'native'} [format] default 'rgba8': straight alpha, or 255; grey, and the first of one or two
 *     channels of unknown meaning, as R = G = B. 'native': the asset's channels and bits.
 *
 * @typedef {object} Pixels
 * @property {Rect} rect in output pixels: the region, outward to whole ones
 * @property {Uint8ClampedArray | Uint8Array | Uint16Array} data rows without padding, channels interleaved. A copy.
 */

const kMaxBufferBytes = 2 ** 30;
const kFormats = ['native', 'rgba8'];

/** What was wrong: `code` is a name of google.rpc.Code, such as 'DATA_LOSS'. */
export class HoloError extends Error {
  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message);
    this.name = 'HoloError';
    this.code = code;
  }
}

/**
 * @param {BufferSource | WebAssembly.Module | Response | Promise<Response>} source
 * @returns {Promise<Decoder>}
 */
export async function loadDecoder(source) {
  const given = await source;
  // Failed asserts of the C++ library write to stderr before they trap; there is nowhere to write to.
  const kBadFile = 8;
  const imports = {
    wasi_snapshot_preview1: {fd_close: () => kBadFile, fd_seek: () => kBadFile, fd_write: () => kBadFile},
  };
  let instance;
  if (given instanceof WebAssembly.Module) {
    instance = await WebAssembly.instantiate(given, imports);
  } else {
    const isResponse = typeof Response !== 'undefined' && given instanceof Response;
    if (isResponse && !given.ok) throw new HoloError('UNAVAILABLE', `decoder: ${given.url} answered ${given.status}`);
    // Not instantiateStreaming(), which insists on a server that knows the type application/wasm.
    const bytes = isResponse ? await given.arrayBuffer() : /** @type {BufferSource} */ (given);
    ({instance} = await WebAssembly.instantiate(bytes, imports));
  }
  return new Decoder(instance);
}

/** @param {string} name @param {number} value @returns {number} */
function uint32(name, value) {
  if (!Number.isInteger(value) || value < 0 || value >= 2 ** 32) {
    throw new HoloError('INVALID_ARGUMENT', `${name}: expected an integer of 0 to 2^32 - 1, found ${value}`);
  }
  return value;
}

/** One instance of the module. Made by loadDecoder(). */
export class Decoder {
  /** @type {any} */
  #exports;
  /** @type {WebAssembly.RuntimeError | null} */
  #trap = null;

  /** @param {WebAssembly.Instance} instance */
  constructor(instance) {
    this.#exports = instance.exports;
    this.#exports._initialize();
  }

  /** @returns {ModuleInfo} */
  info() {
    return this.describe(0);
  }

  /**
   * An asset of which chunks and bases arrive one by one.
   * @param {Uint8Array} header as the message Opened carries it
   * @param {{maxDecodedBytes?: number}} [options] decoded coefficients kept in memory; default 64 MiB
   * @returns {Asset}
   */
  openHeader(header, {maxDecodedBytes = 0} = {}) {
    const limit = uint32('maxDecodedBytes', maxDecodedBytes);
    return new Asset(this, this.call('open_header', this.pass(header), limit));
  }

  /**
   * A .holo file, or the beginning of one, and all chunks in it.
   * @param {Uint8Array} file
   * @param {{maxDecodedBytes?: number}} [options]
   * @returns {Asset}
   */
  openFile(file, {maxDecodedBytes = 0} = {}) {
    const limit = uint32('maxDecodedBytes', maxDecodedBytes);
    return new Asset(this, this.call('open_file', this.pass(file), limit));
  }

  // What follows is for Asset.

  /** @param {string} name @param {...number} parameters @returns {any} */
  raw(name, ...parameters) {
    if (this.#trap) throw new HoloError('INTERNAL', `decoder: it has stopped (${this.#trap.message}); load another`);
    try {
      return this.#exports[name](...parameters);
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) this.#trap = error;
      throw error;
    }
  }

  /** Calls what may fail. @param {string} name @param {...number} parameters @returns {number} */
  call(name, ...parameters) {
    const result = this.raw(name, ...parameters);
    if (result < 0) throw this.#error();
    return result;
  }

  /** A copy of `bytes` for the module, which the next call takes. @param {Uint8Array} bytes @returns {number} */
  pass(bytes) {
    if (!(ArrayBuffer.isView(bytes) && bytes.BYTES_PER_ELEMENT === 1) || bytes.length > kMaxBufferBytes) {
      throw new HoloError('INVALID_ARGUMENT', 'buffer: expected a Uint8Array of at most 2^30 bytes');
    }
    const address = this.raw('alloc', bytes.length) >>> 0;
    if (address === 0) throw this.#error();
    new Uint8Array(this.#exports.memory.buffer).set(bytes, address);
    return address;
  }

  /** @returns {Uint8Array} a copy of the module's result */
  result() {
    const address = this.raw('result') >>> 0;
    return new Uint8Array(this.#exports.memory.buffer).slice(address, address + (this.raw('result_bytes') >>> 0));
  }

  /** @returns {Rect} */
  rectangle() {
    const [x, y, width, height] = new Uint32Array(this.#exports.memory.buffer, this.raw('rectangle') >>> 0, 4);
    return {x, y, width, height};
  }

  /** @param {number} handle @returns {any} */
  describe(handle) {
    this.call('describe', handle);
    return JSON.parse(new TextDecoder().decode(this.result()));
  }

  #error() {
    const [, code, message] = /^([A-Z_]+): (.*)$/s.exec(new TextDecoder().decode(this.result())) ?? [];
    return new HoloError(code ?? 'UNKNOWN', message ?? 'decoder: expected a message');
  }
}

/** One picture. Made by Decoder; must be closed. */
export class Asset {
  #decoder;
  #handle;
  #isWide;

  /** @param {Decoder} decoder @param {number} handle */
  constructor(decoder, handle) {
    this.#decoder = decoder;
    this.#handle = handle;
    this.#isWide = this.info().bitsPerSample === 16;
  }

  /** @returns {AssetInfo} */
  info() {
    return this.#decoder.describe(this.#handle);
  }

  /** Bytes of a basis that info().missingBases names. @param {Uint8Array} bytes */
  addBasis(bytes) {
    this.#decoder.call('add_basis', this.#handle, this.#decoder.pass(bytes));
  }

  /**
   * Takes a chunk. One that was here already changes nothing, one that needs lower layers waits for them.
   * @param {{layer: number, level: number, tile: number}} id
   * @param {Uint8Array} bytes
   * @param {{partial?: boolean}} [options] partial: the beginning of a chunk whose rest will never come
   * @returns {Rect} what looks different now, in pixels of level 0; of width 0 where nothing does
   */
  addChunk({layer, level, tile}, bytes, {partial = false} = {}) {
    const id = [uint32('layer', layer), uint32('level', level), uint32('tile', tile)];
    this.#decoder.call('add_chunk', this.#handle, ...id, this.#decoder.pass(bytes), partial ? 1 : 0);
    return this.#decoder.rectangle();
  }

  /**
   * The best picture of a view that the chunks so far allow.
   * @param {View} [view]
   * @returns {Pixels}
   */
  render({region = {x: 0, y: 0, width: 0, height: 0}, scaleLog2 = 0, k = 0, smooth = true, format = 'rgba8'} = {}) {
    const formatNumber = kFormats.indexOf(format);
    if (formatNumber < 0) {
      throw new HoloError('INVALID_ARGUMENT', `format: expected one of ${kFormats.join(', ')}, found ${format}`);
    }
    this.#decoder.call('render', this.#handle, uint32('region.x', region.x), uint32('region.y', region.y),
        uint32('region.width', region.width), uint32('region.height', region.height), uint32('scaleLog2', scaleLog2),
        uint32('k', k), smooth ? 1 : 0, formatNumber);
    const bytes = this.#decoder.result();
    const rect = this.#decoder.rectangle();
    if (format === 'rgba8') return {rect, data: new Uint8ClampedArray(bytes.buffer)};
    return {rect, data: this.#isWide ? new Uint16Array(bytes.buffer) : bytes};
  }

  /** @returns {Uint8Array} the ICC profile; empty for sRGB or unknown */
  iccProfile() {
    this.#decoder.call('icc_profile', this.#handle);
    return this.#decoder.result();
  }

  /** Frees everything; no other method may be called after it. */
  close() {
    this.#decoder.raw('close', this.#handle);
  }
}
