// Runs networks with ONNX Runtime Web, and lets the page react while they run.

import * as ort from './runtime.js';

const MAX_BUSY_MS = 12; // of work without a break, so that clicks, drawing and sound go on

let channel = null; // opened on first use, since an open channel keeps Node alive
const waiting = [];
let lastBreak = performance.now();

const openChannel = () => {
  const opened = new MessageChannel();
  opened.port1.onmessage = () => {
    lastBreak = performance.now();
    waiting.splice(0).forEach((resume) => resume());
  };
  return opened;
};

// A break ends with a message to ourselves. In a hidden tab, a timer would wait for a whole second.
const takeBreak = () =>
  new Promise((resume) => {
    waiting.push(resume);
    (channel ??= openChannel()).port2.postMessage(null);
  });

// The response with a file of the model's folder. Throws an error that names the file.
export const fetchFile = async (url) => {
  const response = await fetch(url).catch((error) => {
    throw new Error(`cannot load ${url}: ${error.message}`, { cause: error });
  });
  if (response.ok) return response;
  throw new Error(
    `cannot load ${url}: the server answers ${response.status}. Expected a file of the folder that ` +
      "'emodistill export --web-model DIR' writes",
  );
};

// Of all networks: ONNX Runtime Web mixes up the outputs of runs that overlap.
let lastRun = Promise.resolve();

export class Network {
  // Open the ONNX model in `bytes`; messages name its `url`.
  static async open(bytes, url) {
    const network = new Network();
    const options = { executionProviders: ['wasm'] };
    network.session = await ort.InferenceSession.create(bytes, options).catch((error) => {
      const reason = error.message.startsWith('no available backend')
        ? 'ONNX Runtime Web cannot start' // for example because its .wasm file is missing
        : `${url} is not an ONNX model that ONNX Runtime Web reads`;
      throw new Error(`${reason}: ${error.message}`, { cause: error });
    });
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
