// ONNX Runtime Web of the static page, from its own folder. The npm package has another file of this name,
// `js/runtime.js`.

import { env } from './vendor/ort.mjs';

env.wasm.numThreads = 1; // more threads need HTTP headers that a plain file server does not send
env.wasm.wasmPaths = { wasm: new URL('./vendor/ort-wasm-simd-threaded.wasm', import.meta.url).href };

export * from './vendor/ort.mjs';
