// Emotion over time: `emodistill/inference/streaming.py` and `timelines.py` in the browser. A file is a
// stream too.

import { peakWithoutOffset, unusableReason } from './recognizer.js';
import { SegmentTrack, Stretch } from './segmentation.js';
import settings from './settings.js';
import { concatenate, SpeechStream } from './speech_activity.js';
import { windowScorer } from './voices.js';

const { SAMPLE_RATE } = settings.waveform;
const { BLOCK_SAMPLES, SPEECH_FRAME_SAMPLES, SPEECH_ON, SPEECH_OFF } = settings.speech_activity;
const { PAUSE_S, MIN_STRETCH_S } = settings.streaming;
const { SILENCE_PEAK } = settings.recording;
const { LOW_PEAK, QUIET_PEAK } = settings.timelines;
const { MAX_SMOOTH_S, SMOOTH_S } = settings.segmentation_options;

// Takes samples at 16 kHz in chunks of any length. Yields events
// { event: 'speech_started' | 'update' | 'segment' | 'speech_ended', … }. `adapt` is 'none', or 'running': each
// window is compared with the speech before it.
export class StreamingRecognizer {
  constructor(recognizer, adapt = 'none') {
    this.scorer = windowScorer(recognizer, adapt);
    this.track = new SegmentTrack(this.scorer);
    this.detector = new SpeechStream(recognizer.detector);
    this.rest = new Float32Array(0); // samples that are not yet a whole block
    this.numFrames = 0; // whose speech probability is known
    // The present stretch of speech, in samples. Pauses below PAUSE_S belong to it.
    this.start = this.until = 0;
    this.speaking = false;
    this.stretch = null; // set once the speech is as long as MIN_STRETCH_S
  }

  async *push(chunk) {
    const waveform = concatenate(this.rest, chunk);
    const wholeBlocks = waveform.length - (waveform.length % BLOCK_SAMPLES);
    this.rest = waveform.slice(wholeBlocks);
    for (let start = 0; start < wholeBlocks; start += BLOCK_SAMPLES) {
      const block = waveform.subarray(start, start + BLOCK_SAMPLES);
      this.scorer.append(block);
      for (const probability of await this.detector.push(block)) yield* this.addFrame(probability);
      this.forget();
    }
  }

  // The events up to the end of the audio.
  async *finish() {
    this.scorer.append(this.rest);
    for (const probability of await this.detector.push(this.rest)) yield* this.addFrame(probability);
    for (const probability of await this.detector.finish()) yield* this.addFrame(probability);
    if (this.speaking) yield* this.endSpeech();
    yield* this.track.finish();
  }

  // Speech begins at SPEECH_ON, and continues while the probability stays above SPEECH_OFF.
  async *addFrame(probability) {
    const begin = this.numFrames * SPEECH_FRAME_SAMPLES;
    const end = Math.min(begin + SPEECH_FRAME_SAMPLES, this.scorer.numSamples);
    this.numFrames++;
    const followsSpeech = this.speaking && this.until === begin;
    if (probability >= (followsSpeech ? SPEECH_OFF : SPEECH_ON)) {
      if (!this.speaking) Object.assign(this, { speaking: true, start: begin });
      this.until = end;
      yield* this.continueSpeech();
    } else if (this.speaking && end - this.until >= Math.round(PAUSE_S * SAMPLE_RATE)) {
      yield* this.endSpeech();
    }
    if (!this.speaking) yield* this.track.decideBefore(end);
  }

  async *continueSpeech() {
    if (!this.stretch && this.until - this.start >= Math.round(MIN_STRETCH_S * SAMPLE_RATE)) {
      this.stretch = new Stretch(this.scorer, this.start, this.track);
      yield { event: 'speech_started', time_s: this.start / SAMPLE_RATE };
    }
    if (this.stretch) yield* this.stretch.extend(this.until);
  }

  async *endSpeech() {
    if (this.stretch) {
      yield* this.stretch.close(this.until);
      yield { event: 'speech_ended', time_s: this.until / SAMPLE_RATE };
    }
    Object.assign(this, { speaking: false, stretch: null });
  }

  // Drop the audio before the first sample that a window may still need.
  forget() {
    let needed = this.numFrames * SPEECH_FRAME_SAMPLES;
    if (this.speaking) needed = this.stretch ? this.stretch.firstNeededSample(this.until) : this.start;
    this.scorer.forget(needed);
  }
}

// Segments and updates below `minConfidence` lose their emotion and keep their probabilities.
export const applyMinConfidence = (segments, minConfidence) =>
  segments.map((segment) => {
    const confidence = segment.confidence ?? segment.probabilities[segment.emotion];
    return { ...segment, emotion: confidence >= minConfidence ? segment.emotion : null };
  });

export const secondsByEmotion = (segments, emotions) => {
  const seconds = Object.fromEntries(emotions.map((emotion) => [emotion, 0]));
  for (const { emotion, start_s, end_s } of segments) if (emotion) seconds[emotion] += end_s - start_s;
  const rounded = Object.entries(seconds).map(([emotion, sum]) => [emotion, Math.round(1e6 * sum) / 1e6]);
  return Object.fromEntries(rounded);
};

// What `secondsByEmotion` returns for each speaker: those named, then others as they appear. Undefined
// without speakers.
export const secondsBySpeaker = (segments, emotions, names = []) => {
  const speakers = new Set([...names, ...segments.map(({ speaker }) => speaker).filter(Boolean)]);
  if (speakers.size === 0) return undefined;
  const secondsOf = (name) => secondsByEmotion(segments.filter(({ speaker }) => speaker === name), emotions);
  return Object.fromEntries([...speakers].map((name) => [name, secondsOf(name)]));
};

// A timeline whose segments below `minConfidence` have no emotion, and with the sums of the others.
export const withMinConfidence = (row, minConfidence) => {
  const segments = applyMinConfidence(row.segments, minConfidence);
  const emotions = Object.keys(row.summary);
  const speakers = row.speakers && secondsBySpeaker(segments, emotions, Object.keys(row.speakers));
  const summary = secondsByEmotion(segments, emotions);
  return { ...row, segments, summary, ...(speakers && { speakers }) };
};

// The segments of a recording whose windows are compared with all of its speech. `spans` are its stretches of
// speech. The windows are those of the first pass.
const secondPass = async (scorer, spans) => {
  const segments = [];
  const collect = async (events) => {
    for await (const { event, ...fields } of events) if (event === 'segment') segments.push(fields);
  };
  const track = new SegmentTrack(scorer, SMOOTH_S, MAX_SMOOTH_S);
  for (const [start, end] of spans) {
    const stretch = new Stretch(scorer, start, track);
    await collect(stretch.extend(end));
    await collect(stretch.close(end));
  }
  await collect(track.finish());
  return segments;
};

// Emotion over time in a whole waveform: samples (Float32Array) at 16 kHz. `onProgress` gets the share that
// is done and the number of windows; an error that it throws ends the analysis. `adapt` is 'none', 'running'
// as in a stream, or 'recording': each window is compared with the speech of the whole waveform.
export const timeline = async (samples, recognizer, onProgress = () => {}, adapt = 'none') => {
  const stream = new StreamingRecognizer(recognizer, adapt);
  let segments = [];
  const edges = []; // where speech starts and ends
  let numWindows = 0;
  const collect = async (events) => {
    for await (const { event, ...fields } of events) {
      if (event === 'segment') segments.push(fields);
      else if (event === 'update') numWindows++;
      else edges.push(Math.round(fields.time_s * SAMPLE_RATE));
    }
  };
  for (let at = 0; at < samples.length; at += SAMPLE_RATE) {
    await collect(stream.push(samples.subarray(at, at + SAMPLE_RATE)));
    onProgress(at / samples.length, numWindows);
  }
  await collect(stream.finish());
  if (adapt === 'recording') {
    const spans = edges.flatMap((start, at) => (at % 2 === 0 ? [[start, edges[at + 1]]] : []));
    segments = await secondPass(stream.scorer.secondPass(), spans);
  }
  return {
    duration_s: samples.length / SAMPLE_RATE,
    segments,
    summary: secondsByEmotion(segments, recognizer.emotions),
    reason: segments.length ? null : unusableReason(samples) ?? 'no_speech',
    error: null,
  };
};

const amplifyQuiet = (samples) => {
  const peak = peakWithoutOffset(samples);
  const gain = peak >= SILENCE_PEAK && peak < LOW_PEAK ? QUIET_PEAK / peak : 1;
  return gain === 1 ? samples : samples.map((value) => value * gain);
};

// Emotion over time in each channel of a recording: waveforms (Float32Array) of equal length at 16 kHz.
// `names` are the speakers in the channels; null: "channel 0", "channel 1", …. `report` and `adapt` are as
// for `timeline`.
export const timelineOfChannels = async (channels, names, recognizer, report = () => {}, adapt = 'none') => {
  if (names && (names.includes('') || new Set(names).size < names.length)) {
    throw new Error(`expected another name for each channel, got ${names.join(', ')}`);
  }
  if (names && names.length !== channels.length) {
    const counted = `${channels.length} channel${channels.length === 1 ? '' : 's'}`;
    throw new Error(
      `has ${counted}, but there are ${names.length} names (${names.join(', ')}): give one for each channel`,
    );
  }
  const speakers = names ?? channels.map((_, channel) => `channel ${channel}`);
  const segments = [];
  const reasons = new Set();
  let numWindows = 0;
  for (const [channel, samples] of channels.entries()) {
    let ofChannel = 0;
    const onProgress = (share, windows) => {
      ofChannel = windows;
      report((channel + share) / channels.length, numWindows + windows);
    };
    const row = await timeline(amplifyQuiet(samples), recognizer, onProgress, adapt);
    numWindows += ofChannel;
    reasons.add(unusableReason(samples) ?? 'no_speech');
    segments.push(...row.segments.map((segment) => ({ ...segment, speaker: speakers[channel], channel })));
  }
  segments.sort((a, b) => a.start_s - b.start_s || a.end_s - b.end_s || a.channel - b.channel);
  return {
    duration_s: channels[0].length / SAMPLE_RATE,
    segments,
    summary: secondsByEmotion(segments, recognizer.emotions),
    reason: segments.length ? null : reasons.size === 1 ? [...reasons][0] : 'no_speech',
    error: null,
    speakers: secondsBySpeaker(segments, recognizer.emotions, speakers),
  };
};
