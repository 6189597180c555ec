// Speech activity: `emodistill/audio/speech_activity.py` in the browser. `settings.js` has its constants.

import settings from './settings.js';

const { SAMPLE_RATE } = settings.waveform;
const { SPEECH_FRAME_SAMPLES, BLOCK_FRAMES, BLOCK_SAMPLES } = settings.speech_activity;
const { CONTEXT_SAMPLES, STATE_SIZE, LOOKAHEAD_FRAMES } = settings.speech_activity;
const { SPEECH_ON, SPEECH_OFF, MIN_SPEECH_S, MIN_SILENCE_S } = settings.speech_activity;

export const concatenate = (...parts) => {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
};

// Takes one waveform in chunks of any length. Returns speech probabilities, one for each frame, in order.
export class SpeechStream {
  constructor(network) {
    this.network = network;
    this.samples = new Float32Array(CONTEXT_SAMPLES); // the context, then samples that wait for a whole block
    this.state = new Float32Array(STATE_SIZE);
    this.numSamples = 0; // received
    this.numFrames = 0; // that the network has seen
  }

  push(chunk) {
    this.numSamples += chunk.length;
    return this.run(chunk);
  }

  // The probabilities of the last frames, as if silence followed.
  async finish() {
    const total = Math.ceil(this.numSamples / SPEECH_FRAME_SAMPLES);
    const returned = Math.max(0, this.numFrames - LOOKAHEAD_FRAMES);
    if (total === returned) return [];
    const blocks = Math.ceil((total + LOOKAHEAD_FRAMES - this.numFrames) / BLOCK_FRAMES);
    const waiting = this.samples.length - CONTEXT_SAMPLES;
    const rest = await this.run(new Float32Array(blocks * BLOCK_SAMPLES - waiting));
    return rest.slice(0, total - returned);
  }

  async run(chunk) {
    const samples = concatenate(this.samples, chunk);
    const numBlocks = Math.floor((samples.length - CONTEXT_SAMPLES) / BLOCK_SAMPLES);
    const [probabilitiesName, stateName] = this.network.outputs;
    const probabilities = [];
    for (let block = 0; block < numBlocks; block++) {
      const start = block * BLOCK_SAMPLES;
      const input = samples.subarray(start, start + CONTEXT_SAMPLES + BLOCK_SAMPLES);
      const inputs = { waveform: [input, [1, input.length]], state: [this.state, [1, 1, STATE_SIZE]] };
      const outputs = await this.network.run(inputs);
      probabilities.push(...outputs[probabilitiesName]);
      this.state = outputs[stateName];
    }
    this.samples = samples.slice(numBlocks * BLOCK_SAMPLES);
    // The network answers LOOKAHEAD_FRAMES late, so its first outputs are about frames before the first.
    const surplus = Math.max(0, LOOKAHEAD_FRAMES - this.numFrames);
    this.numFrames += probabilities.length;
    return probabilities.slice(surplus);
  }
}

// Where speech is in a whole recording, as spans of samples [start, end).
export const findSpeech = (probabilities) => {
  const found = [];
  let speaking = false;
  let startFrame = 0;
  const close = (endFrame) => {
    const span = [startFrame * SPEECH_FRAME_SAMPLES, endFrame * SPEECH_FRAME_SAMPLES];
    const previous = found.at(-1);
    if (previous && span[0] - previous[1] < MIN_SILENCE_S * SAMPLE_RATE) previous[1] = span[1];
    else found.push(span);
  };
  probabilities.forEach((value, frame) => {
    const isSpeech = value >= (speaking ? SPEECH_OFF : SPEECH_ON);
    if (isSpeech && !speaking) startFrame = frame;
    if (!isSpeech && speaking) close(frame);
    speaking = isSpeech;
  });
  if (speaking) close(probabilities.length);
  return found.filter(([start, end]) => end - start >= MIN_SPEECH_S * SAMPLE_RATE);
};
