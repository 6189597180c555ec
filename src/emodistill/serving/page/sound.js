// Samples: as WAV, out of a decoded recording, and from the microphone.

// 16-bit PCM of one channel: a Blob.
export const wav = (samples, rate) => {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, value) => [...value].forEach((letter, index) => bytes.setUint8(at + index, letter.charCodeAt(0)));
  text(0, 'RIFF');
  bytes.setUint32(4, 36 + 2 * samples.length, true);
  text(8, 'WAVEfmt ');
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true);
  bytes.setUint16(22, 1, true);
  bytes.setUint32(24, rate, true);
  bytes.setUint32(28, 2 * rate, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  text(36, 'data');
  bytes.setUint32(40, 2 * samples.length, true);
  toPcm16(samples).forEach((value, index) => bytes.setInt16(44 + 2 * index, value, true));
  return new Blob([bytes], { type: 'audio/wav' });
};

export const toPcm16 = (samples) => Int16Array.from(samples, (value) => Math.round(Math.max(-1, Math.min(1, value)) * 32767));

// The mean of a decoded recording's channels, between two times.
export const cut = (buffer, start, end) => {
  const from = Math.floor(start * buffer.sampleRate);
  const length = Math.max(0, Math.min(buffer.length, Math.ceil(end * buffer.sampleRate)) - from);
  const mono = new Float32Array(length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const values = buffer.getChannelData(channel);
    for (let at = 0; at < length; at++) mono[at] += values[from + at] / buffer.numberOfChannels;
  }
  return mono;
};

// The microphone as chunks of samples, until `stop`, which gives all of them.
export const record = async (onChunk) => {
  const media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, autoGainControl: false } });
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL('./recorder.js', import.meta.url));
  const node = new AudioWorkletNode(context, 'recorder', { numberOfOutputs: 0 });
  const chunks = [];
  node.port.onmessage = ({ data }) => {
    chunks.push(data);
    onChunk(data);
  };
  context.createMediaStreamSource(media).connect(node);
  await context.resume();
  return {
    rate: context.sampleRate,
    stop: async () => {
      node.port.onmessage = null;
      media.getTracks().forEach((track) => track.stop());
      await context.close();
      const all = new Float32Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
      chunks.reduce((at, chunk) => (all.set(chunk, at), at + chunk.length), 0);
      return all;
    },
  };
};
