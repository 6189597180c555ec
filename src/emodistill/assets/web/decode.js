// Decodes any recording that the browser supports to 16 kHz: `emodistill/audio/waveform.py` in the browser.
//
// A browser resamples to any rate, but with a short filter that lets frequencies above half of that rate
// through. So the browser decodes at the recording's own rate, which is in its first bytes, and this file
// resamples.

import settings from './settings.js';
import { concatenate } from './speech_activity.js';

const { SAMPLE_RATE } = settings.waveform;
const DEFAULT_HZ = 48000; // the rate of Opus, and of files that do not give their rate
const RATES_HZ = [3000, 384000]; // that browsers support
const TRANSITION = 0.0875; // width of the filter's transition band, as a share of half the lower rate
const STOPBAND_DB = 90;

const greatestDivisor = (a, b) => (b === 0 ? a : greatestDivisor(b, a % b));

// The modified Bessel function of order 0, for the Kaiser window.
const bessel = (x) => {
  let [sum, term] = [1, 1];
  for (let k = 1; term > 1e-12 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
};

// Resamples to 16 kHz with a windowed sinc, chunk by chunk and without delay. Any chunks give the same
// samples.
export class Resampler {
  constructor(rate) {
    const divisor = greatestDivisor(rate, SAMPLE_RATE);
    [this.up, this.down] = [SAMPLE_RATE / divisor, rate / divisor];
    const lower = Math.min(rate, SAMPLE_RATE) / rate; // the lower rate, relative to the recording's rate
    const beta = 0.1102 * (STOPBAND_DB - 8.7); // Kaiser's formula for the shape of the window
    // Samples on either side of an output, by Kaiser's formula for the length of the filter.
    this.reach = Math.ceil((STOPBAND_DB - 8) / (2.285 * Math.PI * TRANSITION * lower) / 2);
    const cutoff = lower * (1 - TRANSITION / 2);
    const tap = (at) => {
      const x = Math.PI * cutoff * at;
      const share = at / (this.reach + 1);
      if (Math.abs(share) >= 1) return 0;
      const sinc = x === 0 ? 1 : Math.sin(x) / x;
      return (cutoff * sinc * bessel(beta * Math.sqrt(1 - share ** 2))) / bessel(beta);
    };
    // One row of taps for each position between two samples that an output can have.
    const length = 2 * this.reach + 2;
    const row = (phase) => Float32Array.from({ length }, (_, at) => tap(at - this.reach - phase / this.up));
    this.taps = Array.from({ length: this.up }, (_, phase) => row(phase));
    // Samples that later outputs need. Silence precedes the first sample.
    this.rest = new Float32Array(this.reach);
    this.restStart = -this.reach; // sample at which `rest` begins
    this.numIn = 0; // samples so far
    this.numOut = 0;
  }

  push(chunk) {
    this.numIn += chunk.length;
    return this.resample(chunk);
  }

  // The samples that are left, as if silence followed.
  finish() {
    const samples = this.resample(new Float32Array(this.reach + 2));
    const surplus = this.numOut - Math.ceil((this.numIn * this.up) / this.down);
    return surplus > 0 ? samples.subarray(0, samples.length - surplus) : samples;
  }

  resample(chunk) {
    const samples = concatenate(this.rest, chunk);
    const end = this.restStart + samples.length;
    const outputs = [];
    for (;;) {
      const position = this.numOut * this.down; // of the output, in 1/up samples
      const before = Math.floor(position / this.up); // the input sample before the output
      if (before + this.reach + 1 >= end) break; // the output needs samples of the next chunk
      const taps = this.taps[position % this.up];
      const first = before - this.reach - this.restStart;
      let sum = 0;
      for (let at = 0; at < taps.length; at++) sum += taps[at] * samples[first + at];
      outputs.push(Math.max(-1, Math.min(1, sum)));
      this.numOut++;
    }
    const needed = Math.floor((this.numOut * this.down) / this.up) - this.reach;
    this.rest = samples.slice(Math.max(0, needed - this.restStart));
    this.restStart = end - this.rest.length;
    return Float32Array.from(outputs);
  }
}

const text = (bytes, at, length = 4) => String.fromCharCode(...bytes.subarray(at, at + length));

// The position of a name in the first bytes, or -1.
const find = (bytes, name, until = bytes.length) => {
  const codes = [...name].map((letter) => letter.charCodeAt(0));
  for (let at = 0; at + codes.length <= until; at++) {
    if (codes.every((code, index) => bytes[at + index] === code)) return at;
  }
  return -1;
};

const ADTS_HZ = [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000];
const MPEG_HZ = [11025, 12000, 8000]; // of MPEG 2.5; MPEG 2 has twice and MPEG 1 four times these rates

// The rate of MP3, and of AAC in ADTS. Their frames begin alike, after an optional ID3 tag.
const frameRate = (bytes) => {
  const hasTag = text(bytes, 0, 3) === 'ID3';
  const start = hasTag ? 10 + bytes.subarray(6, 10).reduce((size, byte) => size * 128 + byte, 0) : 0;
  for (let at = start; at + 3 < bytes.length; at++) {
    if (bytes[at] !== 0xff || (bytes[at + 1] & 0xe0) !== 0xe0) continue;
    if ((bytes[at + 1] & 0xf6) === 0xf0) return ADTS_HZ[(bytes[at + 2] >> 2) & 15];
    const version = (bytes[at + 1] >> 3) & 3;
    return MPEG_HZ[(bytes[at + 2] >> 2) & 3] * [1, NaN, 2, 4][version];
  }
  return NaN;
};

// The rate in a recording's header, or NaN.
const headerRate = (bytes) => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const uint32After = (name, offset) => {
    const at = find(bytes, name, Math.min(bytes.length, 1 << 16));
    return at < 0 || at + offset + 4 > bytes.length ? NaN : view.getUint32(at + offset, true);
  };
  switch (text(bytes, 0)) {
    case 'RIFF':
    case 'RF64':
      return uint32After('fmt ', 12);
    case 'fLaC':
      return view.getUint32(18) >>> 12;
    case 'OggS':
      return uint32After('\x01vorbis', 12);
    case '\x1aE\xdf\xa3': // WebM, which mostly holds Opus
      return NaN;
    default:
      if (text(bytes, 4) !== 'ftyp') return frameRate(bytes);
      const at = find(bytes, 'mp4a'); // in the whole file: this box may follow the samples
      return at < 0 || at + 32 > bytes.length ? NaN : view.getUint16(at + 28);
  }
};

// The samples, limited to -1 … 1.
const clip = (samples) =>
  samples.every((value) => Math.abs(value) <= 1)
    ? samples
    : samples.map((value) => Math.max(-1, Math.min(1, value)));

const resample = async (samples, rate) => {
  if (rate === SAMPLE_RATE) return clip(samples);
  const resampler = new Resampler(rate);
  const parts = [];
  for (let at = 0; at < samples.length; at += rate) {
    parts.push(resampler.push(samples.subarray(at, at + rate)));
    if (parts.length % 20 === 0) await new Promise((resume) => setTimeout(resume)); // lets the page react
  }
  return concatenate(...parts, resampler.finish());
};

// The mean of the channels that make a sound anywhere in the recording.
const mixDown = (all) => {
  const sounding = all.filter((samples) => samples.some((value) => value !== 0));
  if (sounding.length < 2) return sounding[0] ?? all[0];
  return all[0].map((_, at) => sounding.reduce((sum, samples) => sum + samples[at], 0) / sounding.length);
};

// The channels (Float32Array) of an AudioBuffer, or of samples at 16 kHz, and their rate.
const channelsOf = (audio) => {
  if (typeof audio?.getChannelData === 'function') {
    const all = Array.from({ length: audio.numberOfChannels }, (_, at) => audio.getChannelData(at));
    return [all, Math.round(audio.sampleRate)]; // the rate is a float of 32 bits
  }
  const all = audio instanceof Float32Array ? [audio] : audio;
  if (Array.isArray(all) && all.length > 0 && all.every((samples) => samples instanceof Float32Array)) {
    return [all, SAMPLE_RATE];
  }
  const hint = audio instanceof Blob || audio instanceof ArrayBuffer ? '. Decode a file with decodeAudio' : '';
  throw new TypeError(
    'expected an AudioBuffer, or samples at 16 kHz: a Float32Array, or a list with one for each channel; got ' +
      `${audio?.constructor?.name ?? audio}${hint}`,
  );
};

// Waveforms (Float32Array) at 16 kHz of an AudioBuffer, or of samples at 16 kHz. `channels` is 'mix' (the mean
// of all channels, as one waveform), 'split' (each channel), or the number of one channel.
export const waveformsOf = async (audio, channels = 'mix') => {
  const [all, rate] = channelsOf(audio);
  if (all.some((samples) => samples.length === 0)) throw new Error('the audio has no samples');
  if (all.some((samples) => samples.length !== all[0].length)) {
    const lengths = all.map((samples) => samples.length).join(', ');
    throw new Error(`expected channels of the same length, got ${lengths} samples`);
  }
  if (channels !== 'mix' && channels !== 'split' && !(Number.isInteger(channels) && all[channels])) {
    throw new RangeError(`no channel ${channels}: expected 'mix', 'split', or 0 to ${all.length - 1}`);
  }
  const chosen = channels === 'split' ? all : [channels === 'mix' ? mixDown(all) : all[channels]];
  const waveforms = [];
  for (const samples of chosen) {
    if (!samples.every(Number.isFinite)) throw new Error('the audio has samples that are no finite numbers');
    waveforms.push(await resample(samples, rate));
  }
  return waveforms;
};

// A recording (Blob) as an AudioBuffer at its own rate. Throws an error if this browser cannot decode it.
export const decodeAudio = async (file) => {
  const bytes = await file.arrayBuffer();
  const ownRate = bytes.byteLength < 64 ? NaN : headerRate(new Uint8Array(bytes));
  const rate = ownRate >= RATES_HZ[0] && ownRate <= RATES_HZ[1] ? ownRate : DEFAULT_HZ;
  return new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes).catch((error) => {
    throw new Error(
      'this browser cannot decode it as audio. Convert it to WAV, FLAC or MP3, or use the page of ' +
        "'emodistill serve', which decodes more.",
      { cause: error },
    );
  });
};

// Waveforms (Float32Array) at 16 kHz: all channels mixed; if `split`, each channel.
export const decode = async (file, split = false) =>
  waveformsOf(await decodeAudio(file), split ? 'split' : 'mix');
