// The WebAssembly decoder's speed on one core: decoder_benchmark.mjs FOLDER_OF_THE_MODULE FILE.holo...
// For each file: opening it and rendering all of it the first time, which decodes every chunk, rendering it again, and
// once more without smoothing.
// The best of fifteen, in megapixels per second; `holo_benchmark_speed` measures the same of the native decoder.
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {performance} from 'node:perf_hooks';
import {pathToFileURL} from 'node:url';

const [folder, ...paths] = process.argv.slice(2);
const {loadDecoder} = await import(pathToFileURL(join(folder, 'decoder.mjs')).href);
const decoder = await loadDecoder(readFileSync(join(folder, 'decoder.wasm')));

for (const path of paths) {
  const file = readFileSync(path);
  const first = [], again = [], unsmoothed = [];
  let pixels = 0;
  for (let run = 0; run < 15; ++run) {
    const start = performance.now();
    const asset = decoder.openFile(file, {maxDecodedBytes: 2 ** 30});
    asset.render();
    const middle = performance.now();
    asset.render();
    const end = performance.now();
    asset.render({smooth: false});
    unsmoothed.push(performance.now() - end);
    first.push(middle - start);
    again.push(end - middle);
    pixels = asset.info().width * asset.info().height;
    asset.close();
  }
  const speed = (times) => (pixels / Math.min(...times) / 1000).toFixed(1);
  console.log(`${path}: ${(file.length * 8 / pixels).toFixed(2)} bits per pixel, decode and render ${speed(first)} MP/s, ` +
      `render ${speed(again)} MP/s, unsmoothed ${speed(unsmoothed)} MP/s`);
}
