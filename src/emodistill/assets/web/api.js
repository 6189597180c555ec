// This device in the place of a server: what the page asks `serving/page/api.js`, answered here, so that nothing is sent anywhere.

import { decode, Resampler } from './decode.js';
import { Recognizer } from './recognizer.js';
import { settled, StreamingRecognizer, summarise, timeline as heard } from './timeline.js';
import { WRITERS } from './writers.js';

export const ABOUT = {
  promise: 'any audio or video that this browser plays; it never leaves this device',
  links: [['Model', 'model.json'], ['ONNX Runtime Web, MIT', 'page/vendor/onnxruntime-web-LICENSE']],
  token: false,
};

const once = (make) => {
  let made = null;
  return () => (made ??= make());
};
const recognizer = once(() => Recognizer.load());
const decoded = new WeakMap(); // file -> promise of its samples
const judged = new WeakMap(); // file -> its timeline, whatever its confidences
let latest = new AbortController();

const samplesOf = async (file) => {
  if (!decoded.has(file)) decoded.set(file, decode(file));
  try {
    return await decoded.get(file);
  } catch {
    throw new Error(`${file.name ?? 'the recording'}: this browser cannot decode it as audio.`);
  }
};

export const models = async () => ({ models: [(await recognizer()).card] });

export const timeline = async (file, { threshold, onProgress }) => {
  latest.abort(new Error('Another recording was opened.'));
  latest = new AbortController();
  const { signal } = latest;
  const loaded = await recognizer();
  if (!judged.has(file)) judged.set(file, await heard(await samplesOf(file), loaded, { onProgress, signal }));
  const row = judged.get(file);
  const segments = settled(row.segments, threshold);
  return { path: file.name, ...row, segments, summary: summarise(segments, loaded.emotions) };
};

export const timelineAs = async (file, format, options) => {
  const row = await timeline(file, options);
  return new Blob([WRITERS[format](row, (await recognizer()).emotions)], { type: 'text/plain' });
};

export const predict = async (file, { threshold, onProgress }) => {
  const row = await (await recognizer()).predict(await samplesOf(file), onProgress);
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
