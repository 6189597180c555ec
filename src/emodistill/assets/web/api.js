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
const recognizer = () => (loading ??= Recognizer.load());

// The samples of the latest file alone: those of an hour take 230 MB.
let latest = { file: null, samples: null };
const getSamples = async (file, { signal, onProgress }) => {
  if (latest.file !== file) {
    latest = { file: null, samples: null };
    onProgress({ text: 'decoding', share: null });
    const samples = await decode(file).catch(() => {
      throw new Error(
        `this browser cannot decode it as audio. Convert it to WAV, FLAC or MP3, or use 'emodistill serve', ` +
          'which can decode more.',
      );
    });
    signal?.throwIfAborted();
    latest = { file, samples };
  }
  return latest.samples;
};

// Progress as the page shows it, of a share from 0 to 1 and a number of windows. Throws an error if the user
// cancelled the analysis, which ends it.
const progress = ({ signal, onProgress }, from, to) => (share, numWindows) => {
  signal?.throwIfAborted();
  const done = from + (to - from) * share;
  onProgress({ text: `${Math.floor(100 * done)} %, ${numWindows} windows`, share: done });
};

// These results do not depend on the minimum confidence, so the user can move it without a new analysis.
const getTimeline = cacheByFile(async (file, adapt, report) =>
  computeTimeline(await getSamples(file, report), await recognizer(), progress(report, 0, 1), adapt),
);
const getPrediction = cacheByFile(async (file, report) =>
  (await recognizer()).predict(await getSamples(file, report), () => report.signal?.throwIfAborted()),
);

const NO_REPORT = { onProgress: () => {} };

export const models = async () => ({ models: [(await recognizer()).card] });

// `compared`: compare each part with the usual of the whole recording.
export const timeline = async (file, { threshold, compared, ...report }) => {
  const adapt = compared ? 'recording' : 'none';
  const row = await getTimeline(file, adapt, adapt, { ...NO_REPORT, ...report });
  const segments = applyMinConfidence(row.segments, threshold);
  return { path: file.name, ...row, segments, summary: secondsByEmotion(segments, Object.keys(row.summary)) };
};

export const timelineAs = async (file, format, options) => {
  const row = await timeline(file, options);
  return new Blob([WRITERS[format.name](row, Object.keys(row.summary))], { type: format.mediaType });
};

export const predict = async (file, { threshold, ...report }) => {
  const row = await getPrediction(file, 'prediction', { ...NO_REPORT, ...report });
  if (row.confidence === null || row.confidence >= threshold) return row;
  return { ...row, emotion: null, abstained: true, reason: 'low_confidence' };
};

// Nothing but this browser can decode a recording here.
export const playable = async (file) => {
  throw new Error(`this browser cannot play ${file.name}`);
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
