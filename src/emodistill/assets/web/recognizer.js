// The recogniser in the browser: `emodistill/recognizer.py` and `emodistill/vad.py`, step by step, with the same constants.
// Given the same samples its probabilities are Python's within 1e-3, which a test in Chromium holds it to.

import * as ort from './vendor/ort.mjs';

export const SAMPLE_RATE = 16000;
const SHORTEST_SAMPLES = SAMPLE_RATE / 10; // of the model's input, padded with zeros
const SHORTEST_S = 0.1;
const SILENCE_PEAK = 10 ** (-70 / 20);
const WINDOW_S = 20;
const SPEECH_MARGIN_S = 0.05;

const FRAME_SAMPLES = 320; // of the speech detector: 20 ms
const BLOCK_FRAMES = 10;
const BLOCK_SAMPLES = BLOCK_FRAMES * FRAME_SAMPLES;
const CONTEXT_SAMPLES = 800;
const STATE_SIZE = 72;
const LOOKAHEAD_FRAMES = 10;
const SPEECH_ON = 0.5;
const SPEECH_OFF = 0.35;
const NO_SPEECH = 0.3;
const MIN_SPEECH_S = 0.1;
const MIN_SILENCE_S = 0.2;
const TRIM_FRAME_SAMPLES = 160;

const peakOf = (samples) => samples.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);

const centred = (samples) => {
  const mean = samples.reduce((sum, value) => sum + value, 0) / samples.length;
  return samples.map((value) => value - mean);
};

const peakNormalised = (samples) => {
  const peak = peakOf(samples);
  return peak === 0 ? samples : samples.map((value) => value / peak);
};

// Half to even, as NumPy rounds.
const rounded = (value) => {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
};

// What lies more than `topDb` below the loudest 10 ms is cut off both ends.
export const trimSilence = (samples, topDb) => {
  const num = Math.floor(samples.length / TRIM_FRAME_SAMPLES);
  if (num < 3) return samples;
  const rms = Array.from({ length: num }, (_, frame) => {
    let sum = 0;
    for (let at = frame * TRIM_FRAME_SAMPLES; at < (frame + 1) * TRIM_FRAME_SAMPLES; at++) sum += samples[at] ** 2;
    return Math.sqrt(sum / TRIM_FRAME_SAMPLES);
  });
  const least = Math.max(...rms) * 10 ** (-topDb / 20);
  const first = rms.findIndex((value) => value > least);
  if (first < 0) return samples;
  const last = rms.findLastIndex((value) => value > least);
  return samples.slice(first * TRIM_FRAME_SAMPLES, (last + 1) * TRIM_FRAME_SAMPLES);
};

// Where speech is, as spans of samples [start, end).
export const spans = (probabilities) => {
  const found = [];
  let speaking = false;
  let start = 0;
  const close = (frame) => {
    const span = [start * FRAME_SAMPLES, frame * FRAME_SAMPLES];
    const before = found.at(-1);
    if (before && span[0] - before[1] < MIN_SILENCE_S * SAMPLE_RATE) before[1] = span[1];
    else found.push(span);
  };
  probabilities.forEach((value, frame) => {
    const now = value >= (speaking ? SPEECH_OFF : SPEECH_ON);
    if (now && !speaking) start = frame;
    if (!now && speaking) close(frame);
    speaking = now;
  });
  if (speaking) close(probabilities.length);
  return found.filter(([from, to]) => to - from >= MIN_SPEECH_S * SAMPLE_RATE);
};

// Equal windows of at most 20 s, without those that are silent or hold no speech.
export const windows = (samples, speech = null) => {
  const num = Math.max(1, Math.ceil(samples.length / (WINDOW_S * SAMPLE_RATE)));
  const edges = Array.from({ length: num + 1 }, (_, at) => rounded((samples.length * at) / num));
  const found = [];
  for (let at = 0; at < num; at++) {
    const [start, end] = [edges[at], edges[at + 1]];
    const window = samples.slice(start, end);
    const spoken = speech === null || speech.some(([first, last]) => first < end && last > start);
    if (spoken && peakOf(window) >= SILENCE_PEAK) found.push(window);
  }
  return found.length ? found : [samples.slice(0, edges[1])];
};

const tempered = (probabilities, temperature) => {
  const top = Math.max(...probabilities);
  const scaled = Array.from(probabilities, (value) => (value / top) ** (1 / temperature));
  const sum = scaled.reduce((total, value) => total + value, 0);
  return scaled.map((value) => value / sum);
};

const abstained = (reason) => ({ emotion: null, confidence: null, probabilities: {}, abstained: true, reason, error: null });

export class Recognizer {
  // Load `model.json` and what it names, from the page's own folder.
  static async load(folder = new URL('./', import.meta.url)) {
    ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
    ort.env.wasm.wasmPaths = { wasm: new URL('./vendor/ort-wasm-simd-threaded.wasm', import.meta.url).href };
    const made = new Recognizer();
    const opened = async (name) => ort.InferenceSession.create(new URL(name, folder).href, { executionProviders: ['wasm'] });
    made.card = await (await fetch(new URL('model.json', folder))).json();
    made.session = await opened('model.onnx');
    made.detector = await opened('vad.onnx');
    return made;
  }

  // The emotion of one utterance: samples (Float32Array) at 16 kHz.
  async predict(waveform) {
    if (waveform.length < SHORTEST_S * SAMPLE_RATE) return abstained('too_short');
    const samples = centred(waveform);
    if (peakOf(samples) < SILENCE_PEAK) return abstained('silence');
    const parts = await this.speech(samples);
    if (parts.length === 0) return abstained('no_speech');
    const said = await this.judge(parts);
    const { student, ...teachers } = said;
    const [emotion, confidence] = Object.entries(student).reduce((best, entry) => (entry[1] > best[1] ? entry : best));
    return { emotion, confidence, probabilities: student, abstained: false, reason: null, error: null, teachers };
  }

  async speech(samples) {
    const activity = await this.activity(peakNormalised(samples));
    if (Math.max(...activity) < NO_SPEECH) return [];
    const found = spans(activity);
    if (found.length === 0) return windows(samples);
    const margin = Math.round(SPEECH_MARGIN_S * SAMPLE_RATE);
    const start = Math.max(0, found[0][0] - margin);
    const end = found.at(-1)[1] + margin;
    return windows(samples.slice(start, end), found.map(([first, last]) => [first - start, last - start]));
  }

  // Speech probabilities of frames of 20 ms, block by block as in a stream.
  async activity(samples) {
    const total = Math.ceil(samples.length / FRAME_SAMPLES);
    const num = Math.ceil((total + LOOKAHEAD_FRAMES) / BLOCK_FRAMES);
    const padded = new Float32Array(CONTEXT_SAMPLES + num * BLOCK_SAMPLES);
    padded.set(samples, CONTEXT_SAMPLES);
    let state = new ort.Tensor('float32', new Float32Array(STATE_SIZE), [1, 1, STATE_SIZE]);
    const found = [];
    const [first, second] = this.detector.outputNames;
    for (let block = 0; block < num; block++) {
      const start = block * BLOCK_SAMPLES;
      const heard = padded.slice(start, start + CONTEXT_SAMPLES + BLOCK_SAMPLES);
      const said = await this.detector.run({ waveform: new ort.Tensor('float32', heard, [1, heard.length]), state });
      found.push(...said[first].data);
      state = said[second];
    }
    return found.slice(LOOKAHEAD_FRAMES, LOOKAHEAD_FRAMES + total);
  }

  async judge(parts) {
    const { emotions, trim_db: trimDb, temperature } = this.card;
    const names = this.session.outputNames.filter((name) => name.startsWith('probabilities'));
    const sums = Object.fromEntries(names.map((name) => [name, emotions.map(() => 0)]));
    for (const part of parts) {
      const trimmed = trimDb === null ? part : trimSilence(part, trimDb);
      const heard = new Float32Array(Math.max(SHORTEST_SAMPLES, trimmed.length));
      heard.set(trimmed);
      const said = await this.session.run({ waveform: new ort.Tensor('float32', heard, [1, heard.length]) }, names);
      for (const name of names) {
        const values = tempered(said[name].data, name === 'probabilities' ? temperature : 1);
        values.forEach((value, at) => (sums[name][at] += value / parts.length));
      }
    }
    const named = (values) => Object.fromEntries(emotions.map((emotion, at) => [emotion, values[at]]));
    return Object.fromEntries(names.map((name) => [name.replace(/^probabilities_?/, '') || 'student', named(sums[name])]));
  }
}

// Any recording that the browser can decode: samples at 16 kHz, the mean of the channels that make a sound.
export const decode = async (file) => {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
  const buffer = await context.decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, at) => buffer.getChannelData(at));
  const alive = channels.filter((samples) => samples.some((value) => value !== 0));
  const heard = alive.length ? alive : channels.slice(0, 1);
  return heard[0].map((_, at) => Math.max(-1, Math.min(1, heard.reduce((sum, samples) => sum + samples[at], 0) / heard.length)));
};
