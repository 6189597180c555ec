// Any recording that the browser can decode, as the recogniser hears it: `emodistill/audio.py` in the browser.
//
// The browser resamples to the rate that it is asked for, with a short filter that lets through what is above half of it. So it is asked
// for the recording's own rate, which the first bytes tell, and the samples are brought to 16 kHz here.

import settings from './settings.js';
import { joined } from './speech_activity.js';

const { SAMPLE_RATE } = settings.waveform;
const USUAL_HZ = 48000; // of Opus, and of what does not say
const RATES_HZ = [3000, 384000]; // that browsers take
const TRANSITION = 0.0875; // share of the lower rate's half in which the filter falls off
const STOP_DB = 90;

const greatestDivisor = (a, b) => (b === 0 ? a : greatestDivisor(b, a % b));

// The modified Bessel function of order 0, for Kaiser's window.
const bessel = (x) => {
  let [sum, term] = [1, 1];
  for (let k = 1; term > 1e-12 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
};

// To 16 kHz by a windowed sinc, chunk by chunk, without delay; any chunking gives the same samples.
export class Resampler {
  constructor(rate) {
    const divisor = greatestDivisor(rate, SAMPLE_RATE);
    [this.up, this.down] = [SAMPLE_RATE / divisor, rate / divisor];
    const lowest = Math.min(rate, SAMPLE_RATE) / rate; // in cycles of half the recording's rate
    const beta = 0.1102 * (STOP_DB - 8.7);
    this.reach = Math.ceil((STOP_DB - 8) / (2.285 * Math.PI * TRANSITION * lowest) / 2); // samples to either side
    const cutoff = lowest * (1 - TRANSITION / 2);
    const tap = (at) => {
      const x = Math.PI * cutoff * at;
      const share = at / (this.reach + 1);
      return Math.abs(share) >= 1 ? 0 : (cutoff * (x === 0 ? 1 : Math.sin(x) / x) * bessel(beta * Math.sqrt(1 - share ** 2))) / bessel(beta);
    };
    // One row of taps for each position between two samples at which an output can lie.
    this.taps = Array.from({ length: this.up }, (_, phase) => Float32Array.from({ length: 2 * this.reach + 2 }, (_, at) => tap(at - this.reach - phase / this.up)));
    this.held = new Float32Array(this.reach); // the first sample has silence before it
    this.numOut = 0; // outputs so far
    this.at = -this.reach; // sample at which `held` begins
    this.numIn = 0;
  }

  push(chunk) {
    this.numIn += chunk.length;
    return this.made(chunk);
  }

  finish() {
    const silence = this.made(new Float32Array(this.reach + 2));
    const surplus = this.numOut - Math.ceil((this.numIn * this.up) / this.down);
    return surplus > 0 ? silence.subarray(0, silence.length - surplus) : silence;
  }

  made(chunk) {
    const samples = joined(this.held, chunk);
    const end = this.at + samples.length; // an output needs the samples up to `reach + 1` after it
    const found = [];
    for (;;) {
      const place = this.numOut * this.down;
      const before = Math.floor(place / this.up);
      if (before + this.reach + 1 >= end) break;
      const taps = this.taps[place % this.up];
      const first = before - this.reach - this.at;
      let sum = 0;
      for (let at = 0; at < taps.length; at++) sum += taps[at] * samples[first + at];
      found.push(Math.max(-1, Math.min(1, sum)));
      this.numOut++;
    }
    const needed = Math.floor((this.numOut * this.down) / this.up) - this.reach;
    this.held = samples.slice(Math.max(0, needed - this.at));
    this.at = end - this.held.length;
    return Float32Array.from(found);
  }
}

const text = (bytes, at, length = 4) => String.fromCharCode(...bytes.subarray(at, at + length));

// Where a name stands among the first bytes; -1 if nowhere.
const find = (bytes, name, until = bytes.length) => {
  const codes = [...name].map((letter) => letter.charCodeAt(0));
  for (let at = 0; at + codes.length <= until; at++) if (codes.every((code, index) => bytes[at + index] === code)) return at;
  return -1;
};

const MPEG_HZ = [11025, 12000, 8000]; // of MPEG 2.5; twice and four times that of MPEG 2 and 1

// Of MP3 and of AAC in ADTS, whose frames begin alike, after an ID3 tag.
const frameRate = (bytes) => {
  const tag = text(bytes, 0, 3) === 'ID3' ? 10 + bytes.subarray(6, 10).reduce((size, byte) => size * 128 + byte, 0) : 0;
  for (let at = tag; at + 3 < bytes.length; at++) {
    if (bytes[at] !== 0xff || (bytes[at + 1] & 0xe0) !== 0xe0) continue;
    if ((bytes[at + 1] & 0xf6) === 0xf0) return [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000][(bytes[at + 2] >> 2) & 15];
    const version = (bytes[at + 1] >> 3) & 3;
    return MPEG_HZ[(bytes[at + 2] >> 2) & 3] * [1, NaN, 2, 4][version];
  }
  return NaN;
};

// The rate that a recording says it has; NaN where it does not.
const ownRate = (bytes) => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const at = (name, offset, read) => {
    const place = find(bytes, name, Math.min(bytes.length, 1 << 16));
    return place < 0 || place + offset + 4 > bytes.length ? NaN : read(place + offset);
  };
  switch (text(bytes, 0)) {
    case 'RIFF':
    case 'RF64':
      return at('fmt ', 12, (place) => view.getUint32(place, true));
    case 'fLaC':
      return view.getUint32(18) >>> 12;
    case 'OggS':
      return at('\x01vorbis', 12, (place) => view.getUint32(place, true));
    case '\x1aE\xdf\xa3': // WebM, which is Opus as a rule
      return NaN;
    default:
      if (text(bytes, 4) !== 'ftyp') return frameRate(bytes);
      const place = find(bytes, 'mp4a'); // the box may lie behind the samples
      return place < 0 || place + 32 > bytes.length ? NaN : view.getUint16(place + 28);
  }
};

// Samples (Float32Array) at 16 kHz: the mean of the channels that make a sound.
export const decode = async (file) => {
  const bytes = await file.arrayBuffer();
  const told = bytes.byteLength < 64 ? NaN : ownRate(new Uint8Array(bytes));
  const rate = told >= RATES_HZ[0] && told <= RATES_HZ[1] ? told : USUAL_HZ;
  const buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, at) => buffer.getChannelData(at));
  const alive = channels.filter((samples) => samples.some((value) => value !== 0));
  const heard = alive.length ? alive : channels.slice(0, 1);
  const mono = heard.length === 1 ? heard[0] : heard[0].map((_, at) => heard.reduce((sum, samples) => sum + samples[at], 0) / heard.length);
  if (rate === SAMPLE_RATE) return mono.map((value) => Math.max(-1, Math.min(1, value)));
  const resampler = new Resampler(rate);
  const parts = [];
  for (let at = 0; at < mono.length; at += rate) {
    parts.push(resampler.push(mono.subarray(at, at + rate)));
    if (parts.length % 20 === 0) await new Promise((resume) => setTimeout(resume)); // the page has its turn
  }
  return joined(...parts, resampler.finish());
};
