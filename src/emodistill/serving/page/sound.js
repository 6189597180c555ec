// Samples: decoded, written as WAV, cut out of a decoded recording, and recorded from the microphone.

import { capture } from './microphone.js';

const MODEL_HZ = 16_000; // rate of the model's input, and so of what the page cuts out for it
const PEAKS_PER_S = 200;

// A recording (Blob) as an AudioBuffer at 16 kHz. Throws an error if this browser cannot decode it.
export const decodeAudio = async (blob) =>
  new OfflineAudioContext(1, 1, MODEL_HZ).decodeAudioData(await blob.arrayBuffer());

// The largest magnitude in each 5 ms of each channel, so that drawing does not read all samples.
export const peaksOf = (buffer) => {
  const length = Math.ceil(buffer.duration * PEAKS_PER_S);
  const samplesPerPeak = buffer.sampleRate / PEAKS_PER_S;
  return Array.from({ length: buffer.numberOfChannels }, (_, channel) => {
    const peaks = new Float32Array(length);
    buffer.getChannelData(channel).forEach((value, at) => {
      const index = Math.floor(at / samplesPerPeak);
      if (Math.abs(value) > peaks[index]) peaks[index] = Math.abs(value);
    });
    return peaks;
  });
};

// A WAV file (Blob) of one channel with 16-bit samples.
export const wav = (samples, rate) => {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const writeText = (at, text) =>
    [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  writeText(0, 'RIFF');
  view.setUint32(4, 36 + 2 * samples.length, true);
  writeText(8, 'WAVEfmt ');
  view.setUint32(16, 16, true); // bytes of the format block
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); // bytes per second
  view.setUint16(32, 2, true); // bytes per sample of all channels
  view.setUint16(34, 16, true); // bits per sample
  writeText(36, 'data');
  view.setUint32(40, 2 * samples.length, true);
  toPcm16(samples).forEach((value, index) => view.setInt16(44 + 2 * index, value, true));
  return new Blob([view], { type: 'audio/wav' });
};

export const toPcm16 = (samples) =>
  Int16Array.from(samples, (value) => Math.round(Math.max(-1, Math.min(1, value)) * 32767));

// The mean of a decoded recording's channels from `start` to `end` in seconds.
export const cut = (buffer, start, end) => {
  const first = Math.floor(start * buffer.sampleRate);
  const length = Math.max(0, Math.min(buffer.length, Math.ceil(end * buffer.sampleRate)) - first);
  const mono = new Float32Array(length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const values = buffer.getChannelData(channel);
    for (let at = 0; at < length; at++) mono[at] += values[first + at] / buffer.numberOfChannels;
  }
  return mono;
};

// Record from the microphone. `onChunk` gets each chunk of samples; `stop` returns all samples.
export const record = async (onChunk) => {
  const audio = { channelCount: 1, autoGainControl: false };
  const media = await navigator.mediaDevices.getUserMedia({ audio });
  const chunks = [];
  const { rate, close } = await capture(media, (chunk) => {
    chunks.push(chunk);
    onChunk(chunk);
  });
  return {
    rate,
    stop: async () => {
      media.getTracks().forEach((track) => track.stop());
      await close();
      const samples = new Float32Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
      chunks.reduce((at, chunk) => (samples.set(chunk, at), at + chunk.length), 0);
      return samples;
    },
  };
};
