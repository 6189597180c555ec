// The public interface of the recogniser in the browser: that of the npm package `emodistill`, and of the static
// page. `js/index.d.ts` has its types and its documentation: if you change one, change the other.

import { decodeAudio, Resampler, waveformsOf } from './decode.js';
import { capture } from './microphone.js';
import { abstainBelow, Recognizer as WaveformRecognizer } from './recognizer.js';
import {
  applyMinConfidence, StreamingRecognizer, timeline, timelineOfChannels, withMinConfidence,
} from './timelines.js';

export { decodeAudio };

const RATES_HZ = [3000, 384000]; // of streams
const ENDED_MS = 100; // from one look at whether a MediaStream has ended to the next

const check = (isValid, name, value, expected) => {
  if (!isValid) throw new RangeError(`bad ${name} ${JSON.stringify(value)}, expected ${expected}`);
};

export class Recognizer {
  #model;

  constructor(model) {
    this.#model = model;
  }

  static async load(folder) {
    const url = new URL(folder, globalThis.document?.baseURI ?? globalThis.location?.href); // of a worker
    if (!url.pathname.endsWith('/')) url.pathname += '/';
    return new Recognizer(await WaveformRecognizer.load(url));
  }

  get card() {
    return this.#model.card;
  }

  get emotions() {
    return this.#model.emotions;
  }

  async predict(audio, { channel = 'mix', minConfidence = 0, signal, onProgress = () => {} } = {}) {
    this.#check({ minConfidence });
    check(channel === 'mix' || Number.isInteger(channel), 'channel', channel, "'mix', or a number from 0");
    const [waveform] = await waveformsOf(audio, channel);
    const prediction = await this.#model.predict(waveform, (share) => {
      signal?.throwIfAborted();
      onProgress(share);
    });
    return abstainBelow(prediction, minConfidence);
  }

  async timeline(audio, options = {}) {
    const { channels = 'mix', names = null, adapt = 'none', minConfidence = 0, signal } = options;
    this.#check({ minConfidence, adapt, adapts: ['none', 'running', 'recording'] });
    check(names === null || channels === 'split', 'names', names, "no names without channels: 'split'");
    const waveforms = await waveformsOf(audio, channels);
    const onProgress = (share, numWindows) => {
      signal?.throwIfAborted();
      options.onProgress?.(share, numWindows);
    };
    const row = channels === 'split'
      ? await timelineOfChannels(waveforms, names, this.#model, onProgress, adapt)
      : await timeline(waveforms[0], this.#model, onProgress, adapt);
    if (Number.isInteger(channels)) {
      row.segments = row.segments.map((segment) => ({ ...segment, channel: channels }));
    }
    return withMinConfidence(row, minConfidence);
  }

  stream(rate, { adapt = 'none', minConfidence = 0 } = {}) {
    this.#check({ minConfidence, adapt, adapts: ['none', 'running'] });
    const [low, high] = RATES_HZ;
    check(Number.isInteger(rate) && rate >= low && rate <= high, 'rate', rate, `${low} to ${high} Hz`);
    return new Stream(new StreamingRecognizer(this.#model, adapt), new Resampler(rate), minConfidence);
  }

  async *listen(mediaStream, options = {}) {
    const tracks = mediaStream.getAudioTracks();
    if (!tracks.length) throw new TypeError('the MediaStream has no audio track');
    const chunks = [];
    let wake = () => {};
    const microphone = await capture(mediaStream, (chunk) => {
      chunks.push(chunk);
      wake();
    });
    // A track that the program itself stops has no event.
    const timer = setInterval(() => wake(), ENDED_MS);
    try {
      const stream = this.stream(microphone.rate, options);
      while (chunks.length || tracks.some((track) => track.readyState === 'live')) {
        if (chunks.length) yield* stream.push(chunks.shift());
        else await new Promise((resume) => (wake = resume));
      }
      yield* stream.finish();
    } finally {
      clearInterval(timer);
      await microphone.close();
    }
  }

  #check({ minConfidence, adapt = 'none', adapts = ['none'] }) {
    check(minConfidence >= 0 && minConfidence <= 1, 'minConfidence', minConfidence, '0 to 1');
    check(adapts.includes(adapt), 'adapt', adapt, `one of ${adapts.join(', ')}`);
    if (adapt !== 'none' && this.card.voice_dim === null) {
      throw new Error(`adapt ${JSON.stringify(adapt)} needs a model with voices, which this one is not`);
    }
  }
}

class Stream {
  #streaming;
  #resampler;
  #minConfidence;

  constructor(streaming, resampler, minConfidence) {
    this.#streaming = streaming;
    this.#resampler = resampler;
    this.#minConfidence = minConfidence;
  }

  async *push(samples) {
    if (!(samples instanceof Float32Array) || !samples.every(Number.isFinite)) {
      throw new TypeError('expected samples of one channel: a Float32Array of finite numbers');
    }
    yield* this.#answer(this.#streaming.push(this.#resampler.push(samples)));
  }

  async *finish() {
    yield* this.#answer(this.#streaming.push(this.#resampler.finish()));
    yield* this.#answer(this.#streaming.finish());
  }

  async *#answer(events) {
    for await (const event of events) {
      yield event.probabilities ? applyMinConfidence([event], this.#minConfidence)[0] : event;
    }
  }
}
