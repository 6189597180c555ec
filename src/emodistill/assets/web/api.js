// This device in the place of a server: what the page asks `serving/page/api.js`, answered here, so that nothing is sent anywhere.

import { decode, Resampler } from './decode.js';
import { Recognizer } from './recognizer.js';
import { settled, StreamingRecognizer, summarise, timeline as heard } from './timelines.js';
import { WRITERS } from './writers.js';

export const ABOUT = {
  promise: 'any audio or video that this browser plays; it never leaves this device',
  links: [['Model', 'model.json'], ['ONNX Runtime Web, MIT', 'page/vendor/onnxruntime-web-LICENSE']],
  token: false,
};

const remembered = (make) => {
  const known = new WeakMap(); // by file
  return async (file, ...rest) => {
    if (!known.has(file)) known.set(file, await make(file, ...rest));
    return known.get(file);
  };
};

let loading = null;
const recognizer = () => (loading ??= Recognizer.load());

const samplesOf = remembered(async (file) => {
  try {
    return await decode(file);
  } catch {
    throw new Error(`${file.name ?? 'the recording'}: this browser cannot decode it as audio.`);
  }
});

// Whatever the confidences: a threshold can be moved without judging again.
const timelineOf = remembered(async (file, onProgress) => heard(await samplesOf(file), await recognizer(), onProgress));
const predictionOf = remembered(async (file, onProgress) => (await recognizer()).predict(await samplesOf(file), onProgress));

// Judging is given up where another recording is opened meanwhile.
let latest = new AbortController();
const whileLatest = (onProgress) => {
  const { signal } = latest;
  return (share) => {
    signal.throwIfAborted();
    onProgress(share);
  };
};

export const models = async () => ({ models: [(await recognizer()).card] });

export const timeline = async (file, { threshold, onProgress = () => {} }) => {
  latest.abort(new Error('Another recording was opened.'));
  latest = new AbortController();
  const row = await timelineOf(file, whileLatest(onProgress));
  const segments = settled(row.segments, threshold);
  return { path: file.name, ...row, segments, summary: summarise(segments, Object.keys(row.summary)) };
};

export const timelineAs = async (file, format, options) => {
  const row = await timeline(file, options);
  return new Blob([WRITERS[format](row, Object.keys(row.summary))], { type: 'text/plain' });
};

export const predict = async (file, { threshold, onProgress }) => {
  const row = await predictionOf(file, onProgress && whileLatest(onProgress));
  if (row.confidence === null || row.confidence >= threshold) return row;
  return { ...row, emotion: null, abstained: true, reason: 'low_confidence' };
};

// 16-bit PCM: `send` chunks, then `end`; `onEvent` hears what comes of them, `onFail` why nothing more does.
export const stream = (rate, { threshold }, onEvent, onFail) => {
  const resampler = new Resampler(rate);
  const opened = recognizer().then((loaded) => new StreamingRecognizer(loaded));
  let turn = opened; // one chunk after another
  const next = (step) => {
    turn = turn.then(async () => {
      for await (const event of step(await opened)) onEvent(event.event === 'segment' ? settled([event], threshold)[0] : event);
    });
    turn.catch(onFail);
  };
  return {
    send: (pcm) => next((hears) => hears.push(resampler.push(Float32Array.from(pcm, (value) => value / 32768)))),
    end: () => {
      next((hears) => hears.push(resampler.finish()));
      next((hears) => hears.finish());
    },
  };
};
