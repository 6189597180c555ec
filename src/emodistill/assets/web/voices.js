// Windows that are compared with a voice, which is learned from the recording itself:
// `emodistill/inference/adapted_windows.py` and `shrinkage` of `voices.py` in the browser.

import { round } from './recognizer.js';
import { WindowScorer } from './segmentation.js';
import settings from './settings.js';

const { SAMPLE_RATE } = settings.waveform;
const { UTTERANCE_S } = settings.voices;

// The factor n / (n + k) of a voice of n utterances; k = 1 for n <= 5, else 3.
export const shrinkage = (numUtterances) => numUtterances / (numUtterances + (numUtterances <= 5 ? 1 : 3));

// The speech that a voice of a recording is made of.
class KnownSpeech {
  constructor(dim) {
    this.weighted = new Float64Array(dim); // the sum of statistics times samples
    this.numSamples = 0;
  }

  // Add a window: its statistics, and the samples that no earlier window has.
  add(statistics, numSamples) {
    this.weighted.forEach((value, at) => (this.weighted[at] = value + numSamples * statistics[at]));
    this.numSamples += numSamples;
  }

  get utterances() {
    return this.numSamples / SAMPLE_RATE / UTTERANCE_S;
  }

  get voiceUtterances() {
    return this.numSamples ? Math.max(1, round(this.utterances)) : 0;
  }

  // What the model subtracts; null without speech.
  shrunk() {
    if (!this.numSamples) return null;
    const factor = shrinkage(this.utterances);
    return Float32Array.from(this.weighted, (value) => factor * (value / this.numSamples));
  }
}

// Compares each window with the speech before it. It takes the windows in order of time.
class RunningScorer extends WindowScorer {
  get usesVoice() {
    return true;
  }

  constructor(recognizer) {
    super(recognizer);
    this.past = new KnownSpeech(recognizer.card.voice_dim);
    this.recent = []; // windows that the next ones may still overlap: [end, statistics, new samples]
  }

  async score(begin, end, newSamples = 0) {
    while (this.recent.length && this.recent[0][0] <= begin) {
      const [, statistics, numSamples] = this.recent.shift();
      this.past.add(statistics, numSamples);
    }
    const output = await this.compare(begin, end, this.past.shrunk());
    if (newSamples) this.recent.push([end, output.statistics, newSamples]);
    return this.scoreOf(output, this.past.voiceUtterances);
  }
}

// Scores windows without a voice, and keeps their statistics for a second pass.
class FirstPassScorer extends WindowScorer {
  constructor(recognizer) {
    super(recognizer);
    this.statistics = new Map(); // by span of samples
    this.known = new KnownSpeech(recognizer.card.voice_dim); // the speech of all windows so far
  }

  async score(begin, end, newSamples = 0) {
    const output = await this.compare(begin, end, null);
    this.statistics.set(`${begin} ${end}`, output.statistics);
    if (newSamples) this.known.add(output.statistics, newSamples);
    return this.scoreOf(output, null);
  }

  secondPass() {
    return new SecondPassScorer(this);
  }
}

// Compares the windows of a first pass with all of its speech. It runs the head of the model alone.
class SecondPassScorer extends WindowScorer {
  get usesVoice() {
    return true;
  }

  constructor(firstPass) {
    super(firstPass.recognizer);
    this.statistics = firstPass.statistics;
    this.shrunk = firstPass.known.shrunk();
    this.voiceUtterances = firstPass.known.voiceUtterances;
  }

  async score(begin, end) {
    const statistics = this.statistics.get(`${begin} ${end}`);
    const output = await this.recognizer.classifyStatistics(statistics, this.shrunk);
    return this.scoreOf(output, this.voiceUtterances);
  }
}

// The scorer for `adapt`: 'none', 'running', or 'recording' (its first pass).
export const windowScorer = (recognizer, adapt) => {
  const scorers = { none: WindowScorer, running: RunningScorer, recording: FirstPassScorer };
  return new scorers[adapt](recognizer);
};
