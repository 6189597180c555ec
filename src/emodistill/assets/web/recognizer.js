// The recogniser in the browser: `emodistill/recognizer.py` and `recording.py`, step by step, with their constants.
// Given the same samples its probabilities are Python's within 1e-3, which a test in Chromium holds it to.

import { Network } from './network.js';
import settings from './settings.js';
import { SpeechStream, spans } from './speech_activity.js';

const { SAMPLE_RATE, SHORTEST_SAMPLES, FRAME_SAMPLES } = settings.waveform;
const { SHORTEST_S, SILENCE_PEAK, LONGEST_WINDOW_S } = settings.recording;
const { SPEECH_MARGIN_S } = settings.recognizer;
const { NO_SPEECH } = settings.speech_activity;

const peakOf = (samples) => samples.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);

const centred = (samples) => {
  const mean = samples.reduce((sum, value) => sum + value, 0) / samples.length;
  return samples.map((value) => value - mean);
};

// Why there cannot be anything to judge in a waveform; null where there can.
export const nothing = (waveform) => {
  if (waveform.length < SHORTEST_S * SAMPLE_RATE) return 'too_short';
  let [sum, low, high] = [0, Infinity, -Infinity];
  for (const value of waveform) {
    sum += value;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const mean = sum / waveform.length;
  return Math.max(high - mean, mean - low) < SILENCE_PEAK ? 'silence' : null;
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

export const best = (values) => values.reduce((first, value, at) => (value > values[first] ? at : first), 0);

// What lies more than `topDb` below the loudest 10 ms is cut off both ends.
const trimSilence = (samples, topDb) => {
  const num = Math.floor(samples.length / FRAME_SAMPLES);
  if (num < 3) return samples;
  const rms = Array.from({ length: num }, (_, frame) => {
    let sum = 0;
    for (let at = frame * FRAME_SAMPLES; at < (frame + 1) * FRAME_SAMPLES; at++) sum += samples[at] ** 2;
    return Math.sqrt(sum / FRAME_SAMPLES);
  });
  const least = Math.max(...rms) * 10 ** (-topDb / 20);
  const first = rms.findIndex((value) => value > least);
  if (first < 0) return samples;
  const last = rms.findLastIndex((value) => value > least);
  return samples.slice(first * FRAME_SAMPLES, (last + 1) * FRAME_SAMPLES);
};

// Equal windows of at most 20 s, without those that are silent or hold no speech; at least one.
const windows = (samples, speech = null) => {
  const num = Math.max(1, Math.ceil(samples.length / (LONGEST_WINDOW_S * SAMPLE_RATE)));
  const edges = Array.from({ length: num + 1 }, (_, at) => rounded((samples.length * at) / num));
  const found = [];
  for (let at = 0; at < num; at++) {
    const [start, end] = [edges[at], edges[at + 1]];
    const window = samples.subarray(start, end);
    const spoken = speech === null || speech.some(([first, last]) => first < end && last > start);
    if (spoken && peakOf(window) >= SILENCE_PEAK) found.push(window);
  }
  return found.length ? found : [samples.subarray(0, edges[1])];
};

const tempered = (probabilities, temperature) => {
  const top = Math.max(...probabilities);
  const scaled = Array.from(probabilities, (value) => (value / top) ** (1 / temperature));
  const sum = scaled.reduce((total, value) => total + value, 0);
  return scaled.map((value) => value / sum);
};

const abstained = (reason) => ({ emotion: null, confidence: null, probabilities: {}, abstained: true, reason, error: null });

export class Recognizer {
  // Load `model.json` and what it names, from the folder above this file's.
  static async load(folder = new URL('../', import.meta.url)) {
    const made = new Recognizer();
    made.card = await (await fetch(new URL('model.json', folder))).json();
    made.network = await Network.open(new URL('model.onnx', folder));
    made.detector = await Network.open(new URL('vad.onnx', folder));
    return made;
  }

  get emotions() {
    return this.card.emotions;
  }

  named(values) {
    return Object.fromEntries(this.emotions.map((emotion, at) => [emotion, values[at]]));
  }

  // The emotion of one utterance: samples (Float32Array) at 16 kHz. `onProgress` is told the share that is done.
  async predict(waveform, onProgress = () => {}) {
    const reason = nothing(waveform);
    if (reason) return abstained(reason);
    const samples = centred(waveform);
    const parts = await this.speech(samples, (share) => onProgress(share / 2));
    if (parts.length === 0) return abstained('no_speech');
    const { student, ...others } = await this.judge(parts, (share) => onProgress((1 + share) / 2));
    const top = best(student);
    const teachers = Object.fromEntries(Object.entries(others).map(([name, values]) => [name, this.named(values)]));
    return {
      emotion: this.emotions[top], confidence: student[top], probabilities: this.named(student), abstained: false, reason: null, error: null, teachers,
    };
  }

  // Probabilities of samples as they are: nothing is refused, and speech is not looked for.
  async probabilities(waveform) {
    return (await this.judge(windows(centred(waveform)))).student;
  }

  async speech(samples, onProgress) {
    const activity = await this.activity(peakNormalised(samples), onProgress);
    if (activity.every((value) => value < NO_SPEECH)) return [];
    const found = spans(activity);
    if (found.length === 0) return windows(samples);
    const margin = Math.round(SPEECH_MARGIN_S * SAMPLE_RATE);
    const start = Math.max(0, found[0][0] - margin);
    const end = found.at(-1)[1] + margin;
    return windows(samples.subarray(start, end), found.map(([first, last]) => [first - start, last - start]));
  }

  async activity(samples, onProgress) {
    const stream = new SpeechStream(this.detector);
    const parts = [];
    for (let at = 0; at < samples.length; at += SAMPLE_RATE) {
      parts.push(await stream.push(samples.subarray(at, at + SAMPLE_RATE)));
      onProgress(at / samples.length);
    }
    return [...parts, await stream.finish()].flat();
  }

  // The student's probabilities and each teacher's, averaged over parts of a waveform.
  async judge(parts, onProgress = () => {}) {
    const { trim_db: trimDb, temperature } = this.card;
    const names = this.network.outputs.filter((name) => name.startsWith('probabilities'));
    const sums = Object.fromEntries(names.map((name) => [name, this.emotions.map(() => 0)]));
    for (const [done, part] of parts.entries()) {
      const trimmed = trimDb === null ? part : trimSilence(part, trimDb);
      const heard = new Float32Array(Math.max(SHORTEST_SAMPLES, trimmed.length));
      heard.set(trimmed);
      const said = await this.network.run({ waveform: [heard, [1, heard.length]] });
      for (const name of names) {
        const values = tempered(said[name], name === 'probabilities' ? temperature : 1);
        values.forEach((value, at) => (sums[name][at] += value / parts.length));
      }
      onProgress((done + 1) / parts.length);
    }
    return Object.fromEntries(names.map((name) => [name.replace(/^probabilities_?/, '') || 'student', sums[name]]));
  }
}
