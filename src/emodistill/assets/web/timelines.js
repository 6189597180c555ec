// Emotion over time: `emodistill/streaming.py` and `timeline.py` in the browser. A file is a stream.

import { nothing } from './recognizer.js';
import { Judge, Stretch } from './segmentation.js';
import settings from './settings.js';
import { joined, SpeechStream } from './speech_activity.js';

const { SAMPLE_RATE } = settings.waveform;
const { BLOCK_SAMPLES, SPEECH_FRAME_SAMPLES, SPEECH_ON, SPEECH_OFF } = settings.speech_activity;
const { PAUSE_S, SHORTEST_SPEECH_S } = settings.streaming;

// Samples at 16 kHz in chunks of any length; events { event: 'speech_started' | 'update' | 'segment' | 'speech_ended', … } out.
export class StreamingRecognizer {
  constructor(recognizer) {
    this.judge = new Judge(recognizer);
    this.frames = new SpeechStream(recognizer.detector);
    this.rest = new Float32Array(0); // less than a block
    this.numFrames = 0; // decided
    this.start = this.until = 0; // samples: the speech that is going on, with pauses below PAUSE_S
    this.speaking = false;
    this.stretch = null; // of that speech, once it is long enough to be speech
  }

  async *push(chunk) {
    const waveform = joined(this.rest, chunk);
    const whole = waveform.length - (waveform.length % BLOCK_SAMPLES);
    this.rest = waveform.slice(whole);
    for (let start = 0; start < whole; start += BLOCK_SAMPLES) {
      const block = waveform.subarray(start, start + BLOCK_SAMPLES);
      this.judge.append(block);
      for (const probability of await this.frames.push(block)) yield* this.frame(probability);
      this.forget();
    }
  }

  // The events up to the end of the audio.
  async *finish() {
    this.judge.append(this.rest);
    for (const probability of await this.frames.push(this.rest)) yield* this.frame(probability);
    for (const probability of await this.frames.finish()) yield* this.frame(probability);
    if (this.speaking) yield* this.endSpeech();
  }

  // Speech begins at SPEECH_ON, and goes on while above SPEECH_OFF.
  async *frame(probability) {
    const begin = this.numFrames * SPEECH_FRAME_SAMPLES;
    const end = Math.min(begin + SPEECH_FRAME_SAMPLES, this.judge.numSamples);
    this.numFrames++;
    const goingOn = this.speaking && this.until === begin;
    if (probability >= (goingOn ? SPEECH_OFF : SPEECH_ON)) {
      if (!this.speaking) Object.assign(this, { speaking: true, start: begin });
      this.until = end;
      yield* this.goOn();
    } else if (this.speaking && end - this.until >= Math.round(PAUSE_S * SAMPLE_RATE)) yield* this.endSpeech();
  }

  async *goOn() {
    if (!this.stretch && this.until - this.start >= Math.round(SHORTEST_SPEECH_S * SAMPLE_RATE)) {
      this.stretch = new Stretch(this.judge, this.start);
      yield { event: 'speech_started', time_s: this.start / SAMPLE_RATE };
    }
    if (this.stretch) yield* this.stretch.reach(this.until);
  }

  async *endSpeech() {
    if (this.stretch) {
      yield* this.stretch.close(this.until);
      yield { event: 'speech_ended', time_s: this.until / SAMPLE_RATE };
    }
    Object.assign(this, { speaking: false, stretch: null });
  }

  // Let go of the audio that no window can ask for any more.
  forget() {
    let needed = this.numFrames * SPEECH_FRAME_SAMPLES;
    if (this.speaking) needed = this.stretch ? this.stretch.needs(this.until) : this.start;
    this.judge.forget(needed);
  }
}

// Segments below `leastConfidence` lose their emotion and keep their probabilities.
export const settled = (segments, leastConfidence) =>
  segments.map((segment) => ({ ...segment, emotion: segment.confidence >= leastConfidence ? segment.emotion : null }));

// Seconds of each emotion.
export const summarise = (segments, emotions) => {
  const seconds = (emotion) => segments.filter((segment) => segment.emotion === emotion).reduce((sum, { start_s, end_s }) => sum + end_s - start_s, 0);
  return Object.fromEntries(emotions.map((emotion) => [emotion, Math.round(1e6 * seconds(emotion)) / 1e6]));
};

// Emotion over time in a whole waveform: samples (Float32Array) at 16 kHz. `onProgress` is told the share that is done; what it throws ends it.
export const timeline = async (samples, recognizer, onProgress = () => {}) => {
  const stream = new StreamingRecognizer(recognizer);
  const segments = [];
  const take = async (events) => {
    for await (const { event, ...found } of events) if (event === 'segment') segments.push(found);
  };
  for (let at = 0; at < samples.length; at += SAMPLE_RATE) {
    await take(stream.push(samples.subarray(at, at + SAMPLE_RATE)));
    onProgress(at / samples.length);
  }
  await take(stream.finish());
  return { duration_s: samples.length / SAMPLE_RATE, segments, summary: summarise(segments, recognizer.emotions), reason: segments.length ? null : nothing(samples) ?? 'no_speech', error: null };
};
