// The static page's `api.js`: the functions of `serving/page/api.js`, answered by the recogniser in this
// browser. Nothing is sent anywhere.

import { decode, Resampler } from './decode.js';
import { Recognizer } from './recognizer.js';
import {
  applyMinConfidence, secondsByEmotion, StreamingRecognizer, timeline as computeTimeline,
} from './timelines.js';
import { WRITERS } from './writers.js';

export const ABOUT = {
  privacy: 'Any audio or video file that this browser can play. It never leaves this device.',
  links: [['Model', 'model.json'], ['ONNX Runtime Web: MIT', 'page/vendor/onnxruntime-web-LICENSE']],
  token: false,
};

// Make a function remember its result for each file and each value of its option `adapt`.
const cacheByFile = (compute) => {
  const results = new WeakMap();
  return async (file, onProgress, adapt) => {
    if (!results.has(file)) results.set(file, new Map());
    const byAdapt = results.get(file);
    if (!byAdapt.has(adapt)) byAdapt.set(adapt, await compute(file, onProgress, adapt));
    return byAdapt.get(adapt);
  };
};

let loading = null;
const recognizer = () => (loading ??= Recognizer.load());

const getSamples = cacheByFile(async (file) => {
  try {
    return await decode(file);
  } catch {
    throw new Error(`${file.name ?? 'The recording'}: this browser cannot decode it as audio.`);
  }
});

// These results do not depend on the minimum confidence, so the user can move it without a new analysis.
const getTimeline = cacheByFile(async (file, onProgress, adapt) =>
  computeTimeline(await getSamples(file), await recognizer(), onProgress, adapt),
);
const getPrediction = cacheByFile(async (file, onProgress) =>
  (await recognizer()).predict(await getSamples(file), onProgress),
);

// An analysis stops where the user opens another recording.
let latest = new AbortController();
const stopIfOutdated = (onProgress) => {
  const { signal } = latest;
  return (share) => {
    signal.throwIfAborted();
    onProgress(share);
  };
};

export const models = async () => ({ models: [(await recognizer()).card] });

// `compared`: compare each part with the usual of the whole recording.
export const timeline = async (file, { threshold, compared, onProgress = () => {} }) => {
  latest.abort(new Error('Another recording was opened.'));
  latest = new AbortController();
  const row = await getTimeline(file, stopIfOutdated(onProgress), compared ? 'recording' : 'none');
  const segments = applyMinConfidence(row.segments, threshold);
  return { path: file.name, ...row, segments, summary: secondsByEmotion(segments, Object.keys(row.summary)) };
};

export const timelineAs = async (file, format, options) => {
  const row = await timeline(file, options);
  return new Blob([WRITERS[format.name](row, Object.keys(row.summary))], { type: format.mediaType });
};

export const predict = async (file, { threshold, onProgress }) => {
  const row = await getPrediction(file, onProgress && stopIfOutdated(onProgress));
  if (row.confidence === null || row.confidence >= threshold) return row;
  return { ...row, emotion: null, abstained: true, reason: 'low_confidence' };
};

// Open a stream of 16-bit PCM. Call `send` with each chunk, then `end`. `onEvent` gets the events, and
// `onError` the reason if the stream ends early. `compared`: compare with the speech so far.
export const stream = (rate, { threshold, compared }, onEvent, onError) => {
  const resampler = new Resampler(rate);
  const opened = recognizer().then((loaded) => new StreamingRecognizer(loaded, compared ? 'running' : 'none'));
  let previous = opened; // so that one chunk is processed after another
  const enqueue = (step) => {
    previous = previous.then(async () => {
      for await (const event of step(await opened)) {
        onEvent(event.event === 'segment' ? applyMinConfidence([event], threshold)[0] : event);
      }
    });
    previous.catch(onError);
  };
  return {
    send: (pcm) => {
      const samples = Float32Array.from(pcm, (value) => value / 32768);
      enqueue((streaming) => streaming.push(resampler.push(samples)));
    },
    end: () => {
      enqueue((streaming) => streaming.push(resampler.finish()));
      enqueue((streaming) => streaming.finish());
    },
  };
};
