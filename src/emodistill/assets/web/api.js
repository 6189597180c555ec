// The static page's `api.js`: the functions of `serving/page/api.js`, answered by the recogniser in this
// browser. Nothing is sent anywhere.

import { decode } from './decode.js';
import { Recognizer } from './index.js';
import { abstainBelow } from './recognizer.js';
import { withMinConfidence } from './timelines.js';
import { WRITERS } from './writers.js';

export const ABOUT = {
  privacy: 'Any audio or video file that this browser can play. It never leaves this device.',
  links: [['Model', 'model.json'], ['ONNX Runtime Web: MIT', 'page/vendor/onnxruntime-web-LICENSE']],
  token: false,
};

// Make a function remember its result for each file and each key.
const cacheByFile = (compute) => {
  const results = new WeakMap();
  return async (file, key, ...others) => {
    if (!results.has(file)) results.set(file, new Map());
    const byKey = results.get(file);
    if (!byKey.has(key)) byKey.set(key, await compute(file, ...others));
    return byKey.get(key);
  };
};

let loading = null;
const recognizer = () => (loading ??= Recognizer.load(new URL('../', import.meta.url)));

// The waveforms of the latest file alone: those of an hour take 230 MB.
let latest = {};
const getWaveforms = async (file, split, { signal, onProgress }) => {
  if (latest.file !== file || latest.split !== split) {
    latest = {};
    onProgress({ text: 'decoding', share: null });
    const waveforms = await decode(file, split);
    signal?.throwIfAborted();
    latest = { file, split, waveforms };
  }
  return latest.waveforms;
};

// These results do not depend on the minimum confidence, so the user can move it without a new analysis.
const getTimeline = cacheByFile(async (file, { adapt, split, names }, { signal, onProgress }) => {
  const waveforms = await getWaveforms(file, split, { signal, onProgress });
  const showProgress = (share, numWindows) =>
    onProgress({ text: `${Math.floor(100 * share)} %, ${numWindows} windows`, share });
  const channels = split ? 'split' : 'mix';
  return (await recognizer()).timeline(waveforms, { adapt, channels, names, signal, onProgress: showProgress });
});
const getPrediction = cacheByFile(async (file, { signal, onProgress }) => {
  const waveforms = await getWaveforms(file, false, { signal, onProgress });
  return (await recognizer()).predict(waveforms, { signal });
});

const NO_REPORT = { onProgress: () => {} };

export const models = async () => ({ models: [(await recognizer()).card] });

// `compared`: compare each part with the usual of the whole recording. `split`: each channel by itself, with
// the `names` of the speakers, separated by commas.
export const timeline = async (file, { threshold, compared, split, names, ...report }) => {
  const options = {
    adapt: compared ? 'recording' : 'none', split: Boolean(split),
    names: split && names ? names.split(',').map((name) => name.trim()) : null,
  };
  const row = await getTimeline(file, JSON.stringify(options), options, { ...NO_REPORT, ...report });
  return { path: file.name, ...withMinConfidence(row, threshold) };
};

export const timelineAs = async (file, format, options) => {
  const row = await timeline(file, options);
  return new Blob([WRITERS[format.name](row, Object.keys(row.summary))], { type: format.mediaType });
};

export const predict = async (file, { threshold, ...report }) =>
  abstainBelow(await getPrediction(file, 'prediction', { ...NO_REPORT, ...report }), threshold);

// Nothing but this browser can decode a recording here.
export const playable = async (file) => {
  throw new Error(`this browser cannot play ${file.name}`);
};

// Open a stream of 16-bit PCM. Call `send` with each chunk, then `end`. `onEvent` gets the events, and
// `onError` the reason if the stream ends early. `compared`: compare with the speech so far.
export const stream = (rate, { threshold, compared }, onEvent, onError) => {
  const options = { adapt: compared ? 'running' : 'none', minConfidence: threshold };
  const opened = recognizer().then((loaded) => loaded.stream(rate, options));
  let previous = opened; // so that one chunk is processed after another
  const enqueue = (step) => {
    previous = previous.then(async () => {
      for await (const event of step(await opened)) onEvent(event);
    });
    previous.catch(onError);
  };
  return {
    send: (pcm) => {
      const samples = Float32Array.from(pcm, (value) => value / 32768);
      enqueue((stream) => stream.push(samples));
    },
    end: () => enqueue((stream) => stream.finish()),
  };
};
