// In the audio thread: the microphone's samples, 2048 at a time.
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = new Float32Array(2048);
    this.length = 0;
  }

  process([[samples]]) {
    if (!samples) return true;
    this.held.set(samples, this.length);
    this.length += samples.length;
    if (this.length === this.held.length) {
      this.port.postMessage(this.held.slice());
      this.length = 0;
    }
    return true;
  }
}
registerProcessor('recorder', Recorder);
