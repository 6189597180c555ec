// Speech activity: `emodistill/vad.py` in the browser. Its constants come from there, by `settings.js`.

import settings from './settings.js';

const { SAMPLE_RATE } = settings.waveform;
const { SPEECH_FRAME_SAMPLES, BLOCK_FRAMES, BLOCK_SAMPLES, CONTEXT_SAMPLES, STATE_SIZE, LOOKAHEAD_FRAMES } = settings.speech_activity;
const { SPEECH_ON, SPEECH_OFF, MIN_SPEECH_S, MIN_SILENCE_S } = settings.speech_activity;

export const joined = (...parts) => {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
};

// One waveform in chunks of any length: an array of probabilities, one for each frame, as they are decided.
export class SpeechStream {
  constructor(network) {
    this.network = network;
    this.samples = new Float32Array(CONTEXT_SAMPLES); // context, then what waits
    this.state = new Float32Array(STATE_SIZE);
    this.numSamples = 0; // that came
    this.numJudged = 0; // frames that the network has heard
  }

  push(chunk) {
    this.numSamples += chunk.length;
    return this.hear(chunk);
  }

  // The rest, as if silence followed.
  async finish() {
    const total = Math.ceil(this.numSamples / SPEECH_FRAME_SAMPLES);
    const decided = Math.max(0, this.numJudged - LOOKAHEAD_FRAMES);
    if (total === decided) return [];
    const blocks = Math.ceil((total + LOOKAHEAD_FRAMES - this.numJudged) / BLOCK_FRAMES);
    const waiting = this.samples.length - CONTEXT_SAMPLES;
    const rest = await this.hear(new Float32Array(blocks * BLOCK_SAMPLES - waiting));
    return rest.slice(0, total - decided);
  }

  async hear(chunk) {
    const samples = joined(this.samples, chunk);
    const num = Math.floor((samples.length - CONTEXT_SAMPLES) / BLOCK_SAMPLES);
    const [probabilities, state] = this.network.outputs;
    const found = [];
    for (let block = 0; block < num; block++) {
      const start = block * BLOCK_SAMPLES;
      const heard = samples.subarray(start, start + CONTEXT_SAMPLES + BLOCK_SAMPLES);
      const said = await this.network.run({ waveform: [heard, [1, heard.length]], state: [this.state, [1, 1, STATE_SIZE]] });
      found.push(...said[probabilities]);
      this.state = said[state];
    }
    this.samples = samples.slice(num * BLOCK_SAMPLES);
    const early = Math.max(0, LOOKAHEAD_FRAMES - this.numJudged); // answers about frames before the first
    this.numJudged += found.length;
    return found.slice(early);
  }
}

// Where speech is in a whole recording, as spans of samples [start, end).
export const spans = (probabilities) => {
  const found = [];
  let speaking = false;
  let start = 0;
  const close = (frame) => {
    const span = [start * SPEECH_FRAME_SAMPLES, frame * SPEECH_FRAME_SAMPLES];
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
