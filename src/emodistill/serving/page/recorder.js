// Runs in the audio thread: sends the microphone's samples to the page, 2048 at a time.
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunk = new Float32Array(2048);
    this.length = 0; // samples in the chunk
  }

  process([[samples]]) {
    if (!samples) return true;
    this.chunk.set(samples, this.length);
    this.length += samples.length;
    if (this.length === this.chunk.length) {
      this.port.postMessage(this.chunk.slice());
      this.length = 0;
    }
    return true;
  }
}
registerProcessor('recorder', Recorder);
