// The static page's `api.js`: the functions of `serving/page/api.js`, answered by the recogniser in this
// browser. Nothing is sent anywhere.

import { decode, Resampler } from './decode.js';
import { Recognizer } from './recognizer.js';
import {
  applyMinConfidence, secondsByEmotion, secondsBySpeaker, StreamingRecognizer, timeline as computeTimeline,
  timelineOfChannels,
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

// The waveforms of the latest file alone: those of an hour take 230 MB.
let latest = {};
const getWaveforms = async (file, split, { signal, onProgress }) => {
  if (latest.file !== file || latest.split !== split) {
    latest = {};
    onProgress({ text: 'decoding', share: null });
    const waveforms = await decode(file, split).catch(() => {
      throw new Error(
        'this browser cannot decode it as audio. Convert it to WAV, FLAC or MP3, or use the page of ' +
          "'emodistill serve', which decodes more.",
      );
    });
    signal?.throwIfAborted();
    latest = { file, split, waveforms };
  }
  return latest.waveforms;
};

// Progress as the page shows it, from a share and a number of windows. Throws an error if the user has
// cancelled the analysis, which ends it.
const progressOf = ({ signal, onProgress }) => (share, numWindows) => {
  signal?.throwIfAborted();
  onProgress({ text: `${Math.floor(100 * share)} %, ${numWindows} windows`, share });
};

// These results do not depend on the minimum confidence, so the user can move it without a new analysis.
const getTimeline = cacheByFile(async (file, { adapt, split, names }, report) => {
  const waveforms = await getWaveforms(file, split, report);
  const onProgress = progressOf(report);
  if (!split) return computeTimeline(waveforms[0], await recognizer(), onProgress, adapt);
  return timelineOfChannels(waveforms, names, await recognizer(), onProgress, adapt);
});
const getPrediction = cacheByFile(async (file, report) => {
  const [waveform] = await getWaveforms(file, false, report);
  return (await recognizer()).predict(waveform, () => report.signal?.throwIfAborted());
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
  const segments = applyMinConfidence(row.segments, threshold);
  const emotions = Object.keys(row.summary);
  const speakers = row.speakers && secondsBySpeaker(segments, emotions, Object.keys(row.speakers));
  const summary = secondsByEmotion(segments, emotions);
  return { path: file.name, ...row, segments, summary, ...(speakers && { speakers }) };
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
        onEvent(event.probabilities ? applyMinConfidence([event], threshold)[0] : event);
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
