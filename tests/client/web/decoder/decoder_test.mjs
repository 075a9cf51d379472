// The WebAssembly decoder against `holo render`: decoder_test.mjs HOLO SPLIT_ASSET FOLDER_OF_THE_MODULE
// Reads two photographs of $HOLO_TEST_DATA/kodak, too, where they are.
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {test} from 'node:test';
import {fileURLToPath, pathToFileURL} from 'node:url';

import {crc32, drawing, fromPng, picture, random, toPng} from './pictures.mjs';

const [holo, splitAsset, moduleFolder] = process.argv.slice(2);
const {HoloError, loadDecoder} = await import(pathToFileURL(join(moduleFolder, 'decoder.mjs')).href);
const kModuleFile = join(moduleFolder, 'decoder.wasm');
const wasm = await WebAssembly.compile(readFileSync(kModuleFile));
const folder = mkdtempSync(join(tmpdir(), 'holo-decoder-'));
process.on('exit', () => rmSync(folder, {recursive: true}));

function run(program, ...parameters) {
  return execFileSync(program, parameters.map(String), {stdio: 'pipe'});
}

// Compresses a picture; the path of the .holo file.
function compress(name, source, ...options) {
  const input = typeof source === 'string' ? source : join(folder, `${name}.png`);
  if (typeof source !== 'string') writeFileSync(input, toPng(source));
  const output = join(folder, `${name}.holo`);
  run(holo, 'compress', input, '-o', output, '-q', ...options);
  return output;
}

function nativeRender(path, ...options) {
  const output = join(folder, 'native.png');
  run(holo, 'render', path, output, '-q', ...options);
  return fromPng(readFileSync(output));
}

// What the pixels of a picture look like as RGBA8.
function toRgba8({channels, bits, samples}) {
  const eight = (v) => bits === 16 ? Math.floor((v + 128) / 257) : v;
  const isColor = channels >= 3;
  const hasAlpha = channels % 2 === 0;
  const out = new Uint8ClampedArray(samples.length / channels * 4);
  for (let i = 0, o = 0; i < samples.length; i += channels, o += 4) {
    for (let c = 0; c < 3; ++c) out[o + c] = eight(samples[i + (isColor ? c : 0)]);
    out[o + 3] = hasAlpha ? eight(samples[i + channels - 1]) : 255;
  }
  return out;
}

function assertSame(actual, expected, what) {
  assert.equal(actual.length, expected.length, `${what}: number of samples`);
  if (Buffer.compare(Buffer.from(actual.buffer), Buffer.from(expected.buffer)) === 0) return;
  const at = actual.findIndex((value, i) => value !== expected[i]);
  assert.fail(`${what}: expected ${expected[at]} at sample ${at}, found ${actual[at]}`);
}

// The records of split_asset.cc.
function split(path) {
  const output = join(folder, 'split');
  run(splitAsset, path, output);
  const file = readFileSync(output);
  const parts = {header: null, bases: [], chunks: []};
  for (let at = 0; at < file.length;) {
    const [kind, layer, level, tile, bytes] = [0, 4, 8, 12, 16].map((o) => file.readUInt32LE(at + o));
    const data = new Uint8Array(file.subarray(at + 20, at + 20 + bytes));
    if (kind === 0) parts.header = data;
    else if (kind === 1) parts.bases.push(data);
    else parts.chunks.push({id: {layer, level, tile}, data});
    at += 20 + bytes;
  }
  return parts;
}

function shuffled(items, next) {
  const out = [...items];
  for (let i = out.length - 1; i > 0; --i) {
    const j = Math.floor(next() * (i + 1));
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

const assets = {
  'grey, odd size': compress('grey', picture(301, 203, 1, 8, 1)),
  'RGB, several tiles': compress('rgb', picture(600, 333, 3, 8, 2)),
  'RGBA': compress('rgba', picture(129, 77, 4, 8, 3)),
  'grey, 16 bit': compress('grey16', picture(65, 290, 1, 16, 4)),
  'grey and alpha, 16 bit': compress('greyalpha16', picture(90, 61, 2, 16, 10)),
  'RGB, 16 bit': compress('rgb16', picture(120, 91, 3, 16, 5)),
  'its own basis': compress('own', picture(256, 192, 3, 8, 6), '--basis', 'own'),
  'few dimensions': compress('k20', picture(200, 150, 3, 8, 7), '-k', 20),
  'a drawing': compress('drawing', drawing(320, 200, 3, 11)),
  'one pixel': compress('pixel', picture(1, 1, 3, 8, 8)),
  'a line': compress('line', picture(700, 3, 1, 8, 9)),
};
const kodak = join(process.env.HOLO_TEST_DATA ?? '', 'kodak');
if (process.env.HOLO_TEST_DATA && existsSync(kodak)) {
  const photographs = readdirSync(kodak).filter((name) => name.endsWith('.png')).sort();
  for (const name of photographs.slice(0, 2)) assets[name] = compress(name, join(kodak, name));
} else {
  console.log('# no photographs: $HOLO_TEST_DATA/kodak is not there');
}

test('the module is smaller than 300 kB and imports nothing but what the loader has', () => {
  assert.ok(statSync(kModuleFile).size < 300_000, `found ${statSync(kModuleFile).size} bytes`);
  const imports = WebAssembly.Module.imports(wasm).map(({module, name}) => `${module}.${name}`);
  const known = ['fd_close', 'fd_seek', 'fd_write'].map((name) => `wasi_snapshot_preview1.${name}`);
  assert.deepEqual(imports.filter((name) => !known.includes(name)), []);
});

for (const [name, path] of Object.entries(assets)) {
  test(`pixels are those of holo render, byte for byte: ${name}`, async () => {
    const decoder = await loadDecoder(wasm);
    const file = readFileSync(path);
    const whole = decoder.openFile(file);
    const {width, height} = whole.info();
    const part = {x: Math.floor(width / 3), y: Math.floor(height / 4), width: Math.ceil(width / 2),
      height: Math.ceil(height / 3)};
    const region = ['--region', [part.x, part.y, part.width, part.height].join(',')];
    const views = [
      {view: {}, options: []},
      {view: {smooth: false}, options: ['--unsmoothed']},
      {view: {k: 7}, options: ['-k', 7]},
      {view: {scaleLog2: 1}, options: ['--scale', '1/2']},
      {view: {scaleLog2: 3}, options: ['--scale', '1/8']},
      {view: {scaleLog2: 6, k: 5}, options: ['--scale', '1/64', '-k', 5]},
      {view: {region: part}, options: region},
      {view: {region: part, scaleLog2: 2, k: 12}, options: [...region, '--scale', '1/4', '-k', 12]},
    ];
    for (const {view, options} of views) {
      const native = nativeRender(path, ...options);
      const {rect, data} = whole.render({...view, format: 'native'});
      assert.deepEqual([rect.width, rect.height], [native.width, native.height], `size of ${options}`);
      assertSame(data, native.samples, `view ${options}`);
      assertSame(whole.render(view).data, toRgba8(native), `view ${options} as RGBA`);
    }
    for (const share of [0.4, 0.75, 0.97]) {
      const bytes = Math.floor(file.length * share);
      let native;
      try {
        native = nativeRender(path, '--bytes', bytes);
      } catch {
        assert.throws(() => decoder.openFile(file.subarray(0, bytes)), HoloError);
        continue;
      }
      const prefix = decoder.openFile(file.subarray(0, bytes));
      assertSame(prefix.render({format: 'native'}).data, native.samples, `the first ${bytes} bytes`);
      prefix.close();
    }
    whole.close();
  });

  test(`chunks one by one, in any order, give the same picture: ${name}`, async () => {
    const decoder = await loadDecoder(wasm);
    const whole = decoder.openFile(readFileSync(path));
    const {header, bases, chunks} = split(path);
    const asset = decoder.openHeader(header);
    assert.equal(asset.info().missingBases.length, bases.length);
    if (bases.length > 0) {
      const {id, data} = chunks[0];
      assert.throws(() => asset.addChunk(id, data), {code: 'FAILED_PRECONDITION'});
      assert.throws(() => asset.render(), {code: 'FAILED_PRECONDITION'});
    }
    for (const basis of bases) asset.addBasis(basis);
    assert.deepEqual(asset.info().missingBases, []);
    // Repainting what each chunk changes leads to the same picture as painting it at the end.
    const {width, height} = asset.info();
    const canvas = new Uint32Array(asset.render().data.buffer);
    const order = shuffled(chunks, random(1));
    for (const {id, data} of order) {
      const changed = asset.addChunk(id, data);
      if (changed.width === 0) continue;
      if (chunks.length > 500) continue;
      const {rect, data: pixels} = asset.render({region: changed});
      const rows = new Uint32Array(pixels.buffer);
      for (let y = 0; y < rect.height; ++y) {
        canvas.set(rows.subarray(y * rect.width, (y + 1) * rect.width), (rect.y + y) * width + rect.x);
      }
    }
    assert.equal(canvas.length, width * height);
    if (chunks.length <= 500) assertSame(canvas, new Uint32Array(whole.render().data.buffer), 'the canvas');
    assertSame(asset.render().data, whole.render().data, 'the picture');
    assert.equal(asset.addChunk(order[0].id, order[0].data).width, 0, 'a chunk twice changes nothing');
    assert.equal(asset.info().receivedBytes, chunks.reduce((sum, {data}) => sum + data.length, 0));
    asset.close();
    whole.close();
  });
}

test('a file whose basis lies elsewhere waits for it', async () => {
  const source = join(folder, 'trained.png');
  writeFileSync(source, toPng(picture(192, 128, 1, 8, 20)));
  run(holo, 'basis', 'train', source, '-o', join(folder, 'trained.basis'), '-q');
  const path = compress('trained', source, '--basis', join(folder, 'trained.basis'));
  const decoder = await loadDecoder(wasm);
  const asset = decoder.openFile(readFileSync(path));
  assert.equal(asset.info().missingBases.length, 1);
  assert.throws(() => asset.render(), {code: 'FAILED_PRECONDITION'});
  assert.throws(() => asset.addBasis(new Uint8Array(100)), {code: 'DATA_LOSS'});
  const other = split(assets['its own basis']).bases[0];
  assert.throws(() => asset.addBasis(other), {code: 'INVALID_ARGUMENT'});
  asset.addBasis(readFileSync(join(folder, 'trained.basis')));
  assertSame(asset.render({format: 'native'}).data, nativeRender(path).samples, 'the picture');
});

test('the module and an asset describe themselves', async () => {
  const decoder = await loadDecoder(wasm);
  assert.ok(decoder.info().builtInBases.every((hash) => /^[0-9a-f]{32}$/.test(hash)));
  assert.ok(decoder.info().builtInBases.length > 0);
  const info = decoder.openFile(readFileSync(assets['RGBA'])).info();
  assert.deepEqual([info.width, info.height, info.channels, info.bitsPerSample], [129, 77, 4, 8]);
  assert.deepEqual([info.colorModel, info.hasAlpha, info.sourceOrientation], ['rgb', true, 1]);
  assert.deepEqual([info.levels[0].width, info.levels[0].patchPx, info.levels.at(-1).patchPx], [129, 8, 1]);
  assert.deepEqual(decoder.openFile(readFileSync(assets['grey, 16 bit'])).info().colorModel, 'gray');
  assert.equal(decoder.openFile(readFileSync(assets['RGBA'])).iccProfile().length, 0);
});

test('wrong parameters are errors, and all goes on as before', async () => {
  const decoder = await loadDecoder(wasm);
  const {header, chunks} = split(assets['RGB, several tiles']);
  const asset = decoder.openHeader(header);
  const {data} = chunks[0];
  const wrong = {code: 'INVALID_ARGUMENT'};
  for (const id of [{layer: 64, level: 0, tile: 0}, {layer: 256, level: 0, tile: 0}, {layer: 0, level: 256, tile: 0},
    {layer: 0, level: 0, tile: 2 ** 31}, {layer: 0, level: 0, tile: 2 ** 32}, {layer: -1, level: 0, tile: 0},
    {layer: 0.5, level: 0, tile: 0}, {layer: 0, level: 0, tile: NaN}, {layer: 0, level: 0}]) {
    assert.throws(() => asset.addChunk(id, data), wrong, JSON.stringify(id));
  }
  const outside = {code: 'OUT_OF_RANGE'};
  for (const region of [{x: 0, y: 0, width: 601, height: 1}, {x: 599, y: 0, width: 2 ** 32 - 1, height: 1},
    {x: 600, y: 0, width: 1, height: 1}, {x: 5, y: 5, width: 0, height: 0}]) {
    assert.throws(() => asset.render({region}), outside, JSON.stringify(region));
  }
  assert.throws(() => asset.render({region: {x: -1, y: 0, width: 1, height: 1}}), wrong);
  assert.throws(() => asset.render({scaleLog2: 25}), outside);
  assert.throws(() => asset.render({scaleLog2: 2 ** 32 - 1}), outside);
  assert.throws(() => asset.render({format: 'jpeg'}), wrong);
  assert.throws(() => decoder.openHeader('text'), wrong);
  assert.throws(() => decoder.openHeader(new Uint16Array(4)), wrong);
  assert.throws(() => decoder.openHeader(header, {maxDecodedBytes: -5}), wrong);
  assert.throws(() => decoder.openHeader(new Uint8Array(0)), {code: 'DATA_LOSS'});
  assert.throws(() => decoder.openFile(new Uint8Array(0)), {code: 'DATA_LOSS'});
  assert.throws(() => decoder.openFile(header), {code: 'DATA_LOSS'});

  for (const {id, data: bytes} of chunks) asset.addChunk(id, bytes);
  const native = nativeRender(assets['RGB, several tiles']);
  assertSame(asset.render({format: 'native'}).data, native.samples, 'the picture after all that');
  asset.close();
  asset.close();
  assert.throws(() => asset.render(), wrong);
});

test('the exports check what does not come from the loader', async () => {
  const {exports} = await WebAssembly.instantiate(wasm,
      {wasi_snapshot_preview1: {fd_close: () => 8, fd_seek: () => 8, fd_write: () => 8}});
  exports._initialize();
  const kInvalidArgument = -3;
  const kResourceExhausted = -8;
  for (const address of [0, 1, 12345, -1, 0x7fffffff]) {
    assert.equal(exports.open_header(address, 0), kInvalidArgument);
    assert.equal(exports.open_file(address, 0), kInvalidArgument);
    assert.equal(exports.add_basis(1, address), kInvalidArgument);
    assert.equal(exports.add_chunk(1, 0, 0, 0, address, 0), kInvalidArgument);
    exports.release(address);
  }
  const buffer = exports.alloc(10);
  assert.notEqual(buffer, 0);
  exports.release(buffer);
  assert.equal(exports.open_header(buffer, 0), kInvalidArgument, 'a released buffer is gone');
  assert.equal(exports.alloc(2 ** 30 + 1), 0);
  assert.equal(exports.alloc(-1), 0);
  for (const handle of [1, -1, 0x7fffffff, -0x80000000]) {
    assert.equal(exports.render(handle, 0, 0, 0, 0, 0, 0, 1, 0), kInvalidArgument);
    assert.equal(exports.describe(handle), kInvalidArgument);
    assert.equal(exports.icc_profile(handle), kInvalidArgument);
    assert.equal(exports.add_chunk(handle, 0, 0, 0, exports.alloc(0), 0), kInvalidArgument);
    exports.close(handle);
  }
  // A picture of 2^30 x 2 pixels: its header opens, a view of all of it is refused.
  const {header} = split(assets['grey, odd size']);
  const body = header.subarray(5 + 1, header.length - 4);
  const wide = Buffer.concat([Buffer.from([0x80, 0x80, 0x80, 0x80, 0x04, 0x02]), body.subarray(4)]);
  assert.deepEqual([...body.subarray(0, 4)], [0xad, 0x02, 0xcb, 0x01], 'width and height come first');
  const unsigned = Buffer.concat([header.subarray(0, 5), Buffer.from([wide.length]), wide]);
  const crc = Buffer.alloc(4);
  crc.writeUInt32LE(crc32(unsigned));
  const forged = Buffer.concat([unsigned, crc]);
  const address = exports.alloc(forged.length);
  new Uint8Array(exports.memory.buffer).set(forged, address);
  const handle = exports.open_header(address, 0);
  assert.ok(handle > 0);
  assert.equal(exports.render(handle, 0, 0, 0, 0, 0, 0, 1, 0), kResourceExhausted);
  assert.equal(exports.render(handle, 0, 0, 2 ** 24, 2, 0, 0, 1, 1), kResourceExhausted);
  assert.equal(exports.render(handle, 2 ** 29, 0, 1000, 2, 0, 0, 1, 1), 0);
  assert.equal(exports.result_bytes(), 8000);
  assert.equal(exports.render(handle, 0, 0, 0, 0, 24, 0, 1, 1), 0);
});

// Whatever happens is a HoloError or a picture: a trap would be a WebAssembly.RuntimeError.
function survive(work) {
  try {
    work();
    return true;
  } catch (error) {
    if (error instanceof HoloError && error.code !== 'INTERNAL') return false;
    throw error;
  }
}

function look(asset) {
  for (const view of [{}, {scaleLog2: 1, k: 3}, {scaleLog2: 3}, {scaleLog2: 24}]) survive(() => asset.render(view));
}

test('truncated files never trap', async () => {
  const decoder = await loadDecoder(wasm);
  for (const [name, path] of Object.entries(assets)) {
    if (name.endsWith('.png')) continue;
    const file = readFileSync(path);
    const next = random(2);
    const lengths = Array.from({length: 60}, (_, i) => i < 30 ? i * 11 : Math.floor(next() * file.length));
    for (const bytes of lengths.filter((length) => length < file.length)) {
      survive(() => {
        const asset = decoder.openFile(file.subarray(0, bytes));
        look(asset);
        asset.close();
      });
    }
  }
});

test('flipped bits in files never trap', async () => {
  const decoder = await loadDecoder(wasm);
  for (const [name, path] of Object.entries(assets)) {
    if (name.endsWith('.png')) continue;
    const file = readFileSync(path);
    const next = random(3);
    for (let i = 0; i < 60; ++i) {
      const damaged = Buffer.from(file);
      // Half of them in the first kilobyte: header, directory, first index.
      const end = i % 2 === 0 ? Math.min(1000, file.length) : file.length;
      for (let n = 0; n < 1 + i % 3; ++n) damaged[Math.floor(next() * end)] ^= 1 << Math.floor(next() * 8);
      survive(() => {
        const asset = decoder.openFile(damaged);
        look(asset);
        asset.close();
      });
    }
  }
});

test('damaged headers with a right checksum never trap', async () => {
  const decoder = await loadDecoder(wasm);
  let opened = 0;
  for (const [name, path] of Object.entries(assets)) {
    if (name.endsWith('.png')) continue;
    const {header, bases, chunks} = split(path);
    const next = random(4);
    for (let i = 0; i < 60; ++i) {
      const damaged = Buffer.from(header);
      damaged[6 + Math.floor(next() * (header.length - 10))] ^= 1 << Math.floor(next() * 8);
      damaged.writeUInt32LE(crc32(damaged.subarray(0, -4)), damaged.length - 4);
      opened += survive(() => {
        const asset = decoder.openHeader(damaged);
        for (const basis of bases) survive(() => asset.addBasis(basis));
        for (const {id, data} of chunks) survive(() => asset.addChunk(id, data));
        look(asset);
        asset.close();
      });
    }
  }
  assert.ok(opened > 50, `expected many of them to open, found ${opened}`);
});

test('damaged chunks never trap', async () => {
  const decoder = await loadDecoder(wasm);
  for (const [name, path] of Object.entries(assets)) {
    if (name.endsWith('.png')) continue;
    const {header, bases, chunks} = split(path);
    const next = random(5);
    for (let i = 0; i < 20; ++i) {
      const asset = decoder.openHeader(header, {maxDecodedBytes: i % 2 === 0 ? 0 : 1});
      for (const basis of bases) asset.addBasis(basis);
      for (const {id, data} of chunks) {
        let damaged = Buffer.from(data);
        const kind = Math.floor(next() * 5);
        if (kind === 0) damaged = damaged.subarray(0, Math.floor(next() * damaged.length));
        if (kind === 1) damaged = Buffer.from(damaged.map(() => Math.floor(next() * 256)));
        if (kind === 2) damaged[Math.floor(next() * damaged.length)] ^= 1 << Math.floor(next() * 8);
        survive(() => asset.addChunk(id, damaged, {partial: next() < 0.1}));
      }
      look(asset);
      asset.close();
    }
  }
});

test('damaged bases never trap', async () => {
  const decoder = await loadDecoder(wasm);
  const {header, bases} = split(assets['its own basis']);
  const next = random(6);
  for (let i = 0; i < 100; ++i) {
    const damaged = Buffer.from(bases[0]);
    if (i % 4 === 0) damaged.fill(255, Math.floor(next() * damaged.length));
    damaged[Math.floor(next() * Math.min(64, damaged.length))] ^= 1 << Math.floor(next() * 8);
    const asset = decoder.openHeader(header);
    survive(() => asset.addBasis(damaged));
    asset.close();
  }
});

test('what fuzzing found, and began with, never traps', async () => {
  const decoder = await loadDecoder(wasm);
  const corpus = join(fileURLToPath(new URL('.', import.meta.url)), '../../../fuzz/corpus/asset');
  const files = readdirSync(corpus);
  assert.ok(files.length > 0);
  for (const name of files) {
    survive(() => {
      const asset = decoder.openFile(readFileSync(join(corpus, name)));
      look(asset);
      asset.close();
    });
  }
});
