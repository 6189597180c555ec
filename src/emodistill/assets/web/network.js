// ONNX Runtime Web: networks that are opened once and run without freezing the page.

import * as ort from './vendor/ort.mjs';

const BUSY_MS = 12; // of work at a stretch; then clicks, drawing and sound have their turn

ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
ort.env.wasm.wasmPaths = { wasm: new URL('./vendor/ort-wasm-simd-threaded.wasm', import.meta.url).href };

// A timer would wait for a second in a tab that nobody looks at; a message does not.
const { port1, port2 } = new MessageChannel();
const waiting = [];
let rested = performance.now();
port1.onmessage = () => {
  rested = performance.now();
  waiting.splice(0).forEach((resume) => resume());
};

const rest = () =>
  new Promise((resume) => {
    waiting.push(resume);
    port2.postMessage(null);
  });

let turn = Promise.resolve(); // of all networks: the run time mixes up the outputs of runs that overlap

export class Network {
  static async open(url) {
    const made = new Network();
    made.session = await ort.InferenceSession.create(url.href, { executionProviders: ['wasm'] });
    made.outputs = made.session.outputNames;
    return made;
  }

  // Inputs by name, each as its values and shape; the outputs' values by name.
  async run(inputs) {
    if (performance.now() - rested > BUSY_MS) await rest();
    const feeds = Object.entries(inputs).map(([name, [values, shape]]) => [name, new ort.Tensor('float32', values, shape)]);
    const ran = turn.then(() => this.session.run(Object.fromEntries(feeds)));
    turn = ran.catch(() => {}); // whoever asked hears of it
    const said = await ran;
    return Object.fromEntries(Object.entries(said).map(([name, { data }]) => [name, data]));
  }
}
