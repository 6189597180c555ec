// Runs networks with ONNX Runtime Web, and lets the page react while they run.

import * as ort from './vendor/ort.mjs';

const MAX_BUSY_MS = 12; // of work without a break, so that clicks, drawing and sound go on

ort.env.wasm.numThreads = 1; // more threads need HTTP headers that a plain file server does not send
ort.env.wasm.wasmPaths = { wasm: new URL('./vendor/ort-wasm-simd-threaded.wasm', import.meta.url).href };

// A break ends with a message to ourselves. In a hidden tab, a timer would wait for a whole second.
const { port1, port2 } = new MessageChannel();
const waiting = [];
let lastBreak = performance.now();
port1.onmessage = () => {
  lastBreak = performance.now();
  waiting.splice(0).forEach((resume) => resume());
};

const takeBreak = () =>
  new Promise((resume) => {
    waiting.push(resume);
    port2.postMessage(null);
  });

// Of all networks: ONNX Runtime Web mixes up the outputs of runs that overlap.
let lastRun = Promise.resolve();

export class Network {
  static async open(url) {
    const network = new Network();
    network.session = await ort.InferenceSession.create(url.href, { executionProviders: ['wasm'] });
    network.outputs = network.session.outputNames;
    return network;
  }

  // Takes inputs by name, each as [values, shape]. Returns the values of the outputs by name.
  async run(inputs) {
    if (performance.now() - lastBreak > MAX_BUSY_MS) await takeBreak();
    const tensor = ([values, shape]) => new ort.Tensor('float32', values, shape);
    const feeds = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, tensor(input)]));
    const run = lastRun.then(() => this.session.run(feeds));
    lastRun = run.catch(() => {}); // an error reaches the caller of this run, not the next run
    const outputs = await run;
    return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data]));
  }
}
