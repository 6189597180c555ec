// The recogniser: `recognizer.py`, `speech_windows.py`, `confidence.py` and `dimensions.py` of
// `emodistill/inference`, and `emodistill/audio/recording.py`, in the browser, with their constants. For the
// same samples, the probabilities equal Python's within 1e-3 (`tests/test_page.py`).

import { fetchFile, Network } from './network.js';
import settings from './settings.js';
import { concatenate, findSpeech, SpeechStream } from './speech_activity.js';

const { SAMPLE_RATE, MIN_INPUT_SAMPLES, FRAME_SAMPLES } = settings.waveform;
const { MIN_UTTERANCE_S, SILENCE_PEAK, MAX_WINDOW_S } = settings.recording;
const { SPEECH_MARGIN_S, MAX_PAUSE_S } = settings.speech_windows;
const { NO_SPEECH } = settings.speech_activity;
const { LIKELY_ACCURACY, GUESS_FACTOR } = settings.confidence;
const { COORDINATES } = settings.dimensions;
const FORMAT = 1; // of `model.json`, as `FORMAT` of `emodistill/serving/static_page.py`

const peakOf = (samples) => samples.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);

const removeOffset = (samples) => {
  const mean = samples.reduce((sum, value) => sum + value, 0) / samples.length;
  return samples.map((value) => value - mean);
};

// The largest magnitude of a waveform without its DC offset.
export const peakWithoutOffset = (waveform) => {
  let [sum, low, high] = [0, Infinity, -Infinity];
  for (const value of waveform) {
    sum += value;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const mean = sum / waveform.length;
  return Math.max(high - mean, mean - low);
};

// Why a waveform cannot have an emotion: 'too_short' or 'silence'. Null if it can.
export const unusableReason = (waveform) => {
  if (waveform.length < MIN_UTTERANCE_S * SAMPLE_RATE) return 'too_short';
  return peakWithoutOffset(waveform) < SILENCE_PEAK ? 'silence' : null;
};

const peakNormalise = (samples) => {
  const peak = peakOf(samples);
  return peak === 0 ? samples : samples.map((value) => value / peak);
};

// Round half to even, as Python and NumPy do.
export const round = (value) => {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
};

export const argmax = (values) => values.reduce((best, value, at) => (value > values[best] ? at : best), 0);

// Cut off both ends what is more than `topDb` below the loudest frame.
const trimSilence = (samples, topDb) => {
  const numFrames = Math.floor(samples.length / FRAME_SAMPLES);
  if (numFrames < 3) return samples;
  const rms = Array.from({ length: numFrames }, (_, frame) => {
    let sum = 0;
    for (let at = frame * FRAME_SAMPLES; at < (frame + 1) * FRAME_SAMPLES; at++) sum += samples[at] ** 2;
    return Math.sqrt(sum / FRAME_SAMPLES);
  });
  const threshold = Math.max(...rms) * 10 ** (-topDb / 20);
  const first = rms.findIndex((value) => value > threshold);
  if (first < 0) return samples;
  const last = rms.findLastIndex((value) => value > threshold);
  return samples.slice(first * FRAME_SAMPLES, (last + 1) * FRAME_SAMPLES);
};

// Equal windows of at most MAX_WINDOW_S, without silent ones. At least one window.
const windows = (samples) => {
  const number = Math.max(1, Math.ceil(samples.length / (MAX_WINDOW_S * SAMPLE_RATE)));
  const edges = Array.from({ length: number + 1 }, (_, at) => round((samples.length * at) / number));
  const all = edges.slice(1).map((end, at) => samples.subarray(edges[at], end));
  const loud = all.filter((window) => peakOf(window) >= SILENCE_PEAK);
  return loud.length ? loud : [all[0]];
};

// The spans to use: the speech, and of each pause between at most MAX_PAUSE_S.
const withoutLongPauses = (spans, numSamples) => {
  const margin = round(SPEECH_MARGIN_S * SAMPLE_RATE);
  const halfPause = round((MAX_PAUSE_S / 2) * SAMPLE_RATE);
  const kept = [[Math.max(0, spans[0][0] - margin), spans[0][1]]];
  for (const [start, end] of spans.slice(1)) {
    const last = kept.at(-1);
    if (start - last[1] <= 2 * halfPause) {
      last[1] = end;
    } else {
      last[1] += halfPause;
      kept.push([start - halfPause, end]);
    }
  }
  kept.at(-1)[1] = Math.min(kept.at(-1)[1] + margin, numSamples);
  return kept;
};

const applyTemperature = (probabilities, temperature) => {
  const top = Math.max(...probabilities);
  const scaled = Array.from(probabilities, (value) => (value / top) ** (1 / temperature));
  const sum = scaled.reduce((total, value) => total + value, 0);
  return scaled.map((value) => value / sum);
};

// The fields with arousal and valence for probabilities by emotion; none if no emotion has coordinates.
const dimensionFields = (probabilities) => {
  const known = Object.entries(probabilities).filter(([emotion]) => emotion in COORDINATES);
  const total = known.reduce((sum, [, value]) => sum + value, 0);
  if (!(total > 0)) return {};
  const mean = (axis) =>
    known.reduce((sum, [emotion, value]) => sum + value * COORDINATES[emotion][axis], 0) / total;
  return { dimensions: { arousal: mean(0), valence: mean(1) }, dimensions_from: 'emotions' };
};

// The share of right answers at a confidence, interpolated between the points of a card.
const expectedAccuracy = (table, confidence) => {
  const next = table.findIndex((point) => point.confidence > confidence);
  if (next === 0) return table[0].accuracy;
  if (next < 0) return table.at(-1).accuracy;
  const [before, after] = [table[next - 1], table[next]];
  const share = (confidence - before.confidence) / (after.confidence - before.confidence);
  return before.accuracy + share * (after.accuracy - before.accuracy);
};

const abstention = (reason) => ({
  emotion: null, confidence: null, probabilities: {}, abstained: true, reason, error: null,
});

// The prediction without an emotion if its confidence is lower.
export const abstainBelow = (prediction, minConfidence) =>
  prediction.confidence === null || prediction.confidence >= minConfidence
    ? prediction
    : { ...prediction, emotion: null, abstained: true, reason: 'low_confidence' };

// The content of `model.json`. Throws an error if it is no model, or one of another format.
const readCard = async (url) => {
  const text = await (await fetchFile(url)).text();
  let card = null;
  try {
    card = JSON.parse(text);
  } catch (error) {
    const start = JSON.stringify(text.slice(0, 40)); // of a page, from servers that answer so for a missing file
    throw new Error(`${url} is not JSON, it begins with ${start}: is there no such file?`, { cause: error });
  }
  if (card?.format !== FORMAT || !card.emotions?.length) {
    throw new Error(
      `${url} is not a model of format ${FORMAT}, its format is ${card?.format}. Write the folder again with ` +
        "'emodistill export --web-model DIR' of the same version as this library",
    );
  }
  return card;
};

const sha256 = async (bytes) => {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');
};

export class Recognizer {
  // Load `model.json` and the networks from a folder, a URL that ends with a slash.
  static async load(folder) {
    const open = async (name, hash = null) => {
      const url = new URL(name, folder);
      const bytes = await (await fetchFile(url)).arrayBuffer();
      // Browsers compute hashes on https and on localhost alone.
      if (hash !== null && globalThis.crypto?.subtle && (await sha256(bytes)) !== hash) {
        throw new Error(`${url} is not the file that model.json describes: copy the whole folder again`);
      }
      return Network.open(bytes, url);
    };
    const recognizer = new Recognizer();
    const card = await readCard(new URL('model.json', folder));
    recognizer.card = card;
    recognizer.network = await open('model.onnx', card.sha256);
    recognizer.detector = await open('vad.onnx');
    recognizer.head = card.voice_dim === null ? null : await open('head.onnx');
    return recognizer;
  }

  get emotions() {
    return this.card.emotions;
  }

  byEmotion(values) {
    return Object.fromEntries(this.emotions.map((emotion, at) => [emotion, values[at]]));
  }

  // Emotion, confidence, surety and dimensions for probabilities by emotion. `hasVoice`: they come from a
  // comparison with a voice. `emotion` was chosen by other means; undefined: the most probable one.
  // `dimensions` are values of the model's head; null: arousal and valence are computed.
  answer(probabilities, hasVoice, emotion, dimensions = null) {
    emotion ??= this.emotions[argmax(Object.values(probabilities))];
    const confidence = probabilities[emotion];
    const surety = this.surety(confidence, hasVoice);
    return { emotion, confidence, ...(surety && { surety }), ...this.dimensionFields(probabilities, dimensions) };
  }

  // The fields with the dimensions: those of the model's head, or else those of the emotions.
  dimensionFields(probabilities, dimensions) {
    if (dimensions === null) return dimensionFields(probabilities);
    const byName = Object.fromEntries(this.card.dimensions.map((name, at) => [name, dimensions[at]]));
    return { dimensions: byName, dimensions_from: 'head' };
  }

  // How far an answer can be trusted; null for a card without the table, and for one emotion alone.
  surety(confidence, hasVoice) {
    const { accuracy, accuracy_voice: accuracyVoice } = this.card;
    const table = hasVoice && accuracyVoice.length ? accuracyVoice : accuracy;
    if (table.length === 0 || this.emotions.length === 1) return null;
    const expected = expectedAccuracy(table, confidence);
    if (expected >= LIKELY_ACCURACY) return 'likely';
    return expected < GUESS_FACTOR / this.emotions.length ? 'no better than a guess' : 'unsure';
  }

  // The emotion of one utterance: samples (Float32Array) at 16 kHz. `onProgress` gets the share that is done.
  async predict(waveform, onProgress = () => {}) {
    const reason = unusableReason(waveform);
    if (reason) return abstention(reason);
    const samples = removeOffset(waveform);
    const parts = await this.speechWindows(samples, (share) => onProgress(share / 2));
    if (parts.length === 0) return abstention('no_speech');
    const outputs = await this.run(parts, null, (share) => onProgress((1 + share) / 2));
    const means = this.meanProbabilities(outputs, false);
    const { student, ...others } = means;
    const probabilities = this.byEmotion(student);
    const teacherEntries = Object.entries(others).map(([name, values]) => [name, this.byEmotion(values)]);
    const teachers = Object.fromEntries(teacherEntries);
    const answer = this.answer(probabilities, false, undefined, this.meanDimensions(outputs));
    return { probabilities, abstained: false, reason: null, error: null, teachers, ...answer };
  }

  // What the model predicts for any samples of at most MAX_WINDOW_S, without a check for silence and for
  // speech: probabilities, dimensions, and statistics if it has voices. The model subtracts `shrunk`, a voice,
  // if it is not null.
  async classify(waveform, shrunk = null) {
    return this.windowOutput(await this.run(windows(removeOffset(waveform)), shrunk), shrunk);
  }

  // What the head of the model predicts for statistics.
  async classifyStatistics(statistics, shrunk) {
    const inputs = { statistics: [statistics, [1, statistics.length]], voice: this.voiceInput(shrunk) };
    return this.windowOutput([await this.head.run(inputs)], shrunk);
  }

  windowOutput(outputs, shrunk) {
    return {
      probabilities: this.meanProbabilities(outputs, shrunk !== null).student,
      dimensions: this.meanDimensions(outputs), statistics: outputs[0].statistics,
    };
  }

  // The input `voice` of the model: zeros for no voice.
  voiceInput(shrunk) {
    const dim = this.card.voice_dim;
    return [shrunk ?? new Float32Array(dim), [1, dim]];
  }

  // Windows of the speech, with pauses of at most MAX_PAUSE_S. No window if there is no speech.
  async speechWindows(samples, onProgress) {
    const activity = await this.speechActivity(peakNormalise(samples), onProgress);
    if (activity.every((value) => value < NO_SPEECH)) return [];
    const found = findSpeech(activity);
    if (found.length === 0) return windows(samples);
    const kept = withoutLongPauses(found, samples.length);
    return windows(concatenate(...kept.map(([start, end]) => samples.subarray(start, end))));
  }

  async speechActivity(samples, onProgress) {
    const stream = new SpeechStream(this.detector);
    const parts = [];
    for (let at = 0; at < samples.length; at += SAMPLE_RATE) {
      parts.push(await stream.push(samples.subarray(at, at + SAMPLE_RATE)));
      onProgress(at / samples.length);
    }
    return [...parts, await stream.finish()].flat();
  }

  // The outputs of the model for each part of a waveform.
  async run(parts, shrunk, onProgress = () => {}) {
    const { trim_db: trimDb, voice_dim: voiceDim } = this.card;
    const outputs = [];
    for (const part of parts) {
      const trimmed = trimDb === null ? part : trimSilence(part, trimDb);
      const input = new Float32Array(Math.max(MIN_INPUT_SAMPLES, trimmed.length));
      input.set(trimmed);
      const inputs = { waveform: [input, [1, input.length]] };
      if (voiceDim !== null) inputs.voice = this.voiceInput(shrunk);
      outputs.push(await this.network.run(inputs));
      onProgress(outputs.length / parts.length);
    }
    return outputs;
  }

  // The dimensions of the model's head, averaged over outputs of the model; null without such a head.
  meanDimensions(outputs) {
    if (this.card.dimensions.length === 0) return null;
    const sum = (at) => outputs.reduce((total, output) => total + output.dimensions[at], 0);
    return this.card.dimensions.map((_, at) => sum(at) / outputs.length);
  }

  // The probabilities of the student and of each teacher, averaged over outputs of the model.
  meanProbabilities(outputs, hasVoice) {
    const { temperature, temperature_voice: temperatureVoice } = this.card;
    const ofStudent = hasVoice ? temperatureVoice ?? temperature : temperature;
    const names = this.network.outputs.filter((name) => name.startsWith('probabilities'));
    const means = Object.fromEntries(names.map((name) => [name, this.emotions.map(() => 0)]));
    for (const output of outputs) {
      for (const name of names) {
        const values = applyTemperature(output[name], name === 'probabilities' ? ofStudent : 1);
        values.forEach((value, at) => (means[name][at] += value / outputs.length));
      }
    }
    const shortName = (name) => name.replace(/^probabilities_?/, '') || 'student';
    return Object.fromEntries(names.map((name) => [shortName(name), means[name]]));
  }
}
