// ONNX Runtime Web of the npm package: the program's own copy. The static page has another file of this name.

import { env } from 'onnxruntime-web/wasm';

env.wasm.numThreads ??= 1; // more threads need HTTP headers that a plain file server does not send

export * from 'onnxruntime-web/wasm';
