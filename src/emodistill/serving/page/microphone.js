// Takes the samples out of a MediaStream.

// Calls `onChunk` with each chunk of samples (Float32Array) of the first channel, at `rate`. `close` ends that,
// and leaves the MediaStream open.
export const capture = async (mediaStream, onChunk) => {
  const context = new AudioContext();
  try {
    await context.audioWorklet.addModule(new URL('./recorder.js', import.meta.url));
    const node = new AudioWorkletNode(context, 'recorder', { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => onChunk(data);
    context.createMediaStreamSource(mediaStream).connect(node);
    const close = () => {
      node.port.onmessage = null;
      return context.close();
    };
    // The browser may wait for the first click on the page. If the context is closed before, this fails.
    context.resume().catch(() => {});
    return { rate: context.sampleRate, close };
  } catch (error) {
    await context.close();
    throw error;
  }
};
