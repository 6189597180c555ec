"""Speech activity: one probability for each 20 ms of a waveform, by a small packaged network, without torch.

The network runs on blocks of a fixed size, on the recording's own sample grid. Its inputs are a block, the
samples just before it, and the state after the block before. A probability depends on the past and on
`LOOKAHEAD_S` of the future, so any chunking of a stream gives the same numbers as the file.

`assets/vad.json` states how the network was trained, and on which data.
"""

import hashlib
import json
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import onnxruntime

from emodistill.audio.onnx_session import open_session
from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.errors import AudioError, ConfigError, ModelError

SPEECH_FRAME_SAMPLES = 320  # 20 ms; frame i covers samples [i * 320, (i + 1) * 320)
BLOCK_FRAMES = 10  # one run of the network: 0.2 s
BLOCK_SAMPLES = BLOCK_FRAMES * SPEECH_FRAME_SAMPLES
CONTEXT_SAMPLES = 800  # before a block: half a spectral window, and two frames for the convolution
STATE_SIZE = 72  # numbers that the network passes on to the next block
LOOKAHEAD_FRAMES = 10  # the network's output is this many frames late, so it knows what follows a frame
LOOKAHEAD_S = LOOKAHEAD_FRAMES * SPEECH_FRAME_SAMPLES / SAMPLE_RATE  # 0.2

# Chosen on dev speakers. The thresholds of equal error are 0.43 to 0.56: without noise, in white noise at 0
# dB, and in pink noise at 10 and 0 dB. SPEECH_OFF was not tuned. It is lower, so that a dip inside a word
# does not end it.
SPEECH_ON = 0.5
SPEECH_OFF = 0.35
# A recording holds no speech if all its frames are below this. Of 558 dev clips of RAVDESS and ASED without
# noise, the lowest maximum is 0.53. Of 80 sounds of noise, hum, tones, clicks and simple music, the highest
# is 0.29.
NO_SPEECH = 0.3

MIN_SPEECH_S = 0.1  # a shorter span is dropped
MIN_SILENCE_S = 0.2  # a shorter pause is bridged

ASSETS = files("emodistill") / "assets"
Probabilities = npt.NDArray[np.float32]


class SpeechDetector:
    """The packaged network. Thread-safe, because only its streams keep state."""

    def __init__(self, threads: int = 1) -> None:
        """Load the network.

        Args:
            threads: CPU threads for one run; the network is so small that more than one seldom helps.

        Raises:
            ModelError: the packaged files are missing or were changed.
        """
        try:
            network = (ASSETS / "vad.onnx").read_bytes()
            expected = json.loads((ASSETS / "vad.json").read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"the speech detector in '{ASSETS}' is incomplete ({error}); install emodistill again"
            ) from error
        digest = hashlib.sha256(network).hexdigest()
        if digest != expected:
            raise ModelError(
                f"'{ASSETS / 'vad.onnx'}' was changed: its SHA-256 is {digest[:12]}…, vad.json states "
                f"{expected[:12]}…; install emodistill again"
            )
        self._session = open_session(network, threads)

    def probabilities(self, waveform: Waveform) -> Probabilities:
        """Return the speech probability of each frame, (ceil(samples / 320),), of a waveform (samples,).

        Raises `AudioError` for samples of another shape, NaN or Inf.
        """
        stream = self.stream()
        return np.concatenate([stream.push(waveform), stream.finish()])

    def stream(self) -> "SpeechStream":
        """Open a stream for a waveform that arrives in chunks."""
        return SpeechStream(self._session)


class SpeechStream:
    """The speech probabilities of one waveform in chunks. It keeps less than a block, and a state."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        # The context, then the samples that wait for a whole block.
        self._samples: Waveform = np.zeros(CONTEXT_SAMPLES, dtype=np.float32)
        self._state = np.zeros((1, 1, STATE_SIZE), dtype=np.float32)
        self._num_samples = 0  # received
        self._num_frames = 0  # that the network has seen
        self._finished = False

    def push(self, waveform: Waveform) -> Probabilities:
        """Return the probabilities (frames,) that are known after a chunk (samples,) of any length, in order.

        Raises `AudioError` for samples of another shape, NaN or Inf; the audio before such a chunk is kept.
        """
        self._check_open()
        chunk = np.asarray(waveform, dtype=np.float32)
        if chunk.ndim != 1:
            raise AudioError(f"expected a waveform (samples,), got shape {chunk.shape}")
        if not np.isfinite(chunk).all():
            raise AudioError("expected finite samples, got NaN or Inf")
        self._num_samples += len(chunk)
        return self._run_blocks(chunk)

    def finish(self) -> Probabilities:
        """Close the stream, and return the last probabilities (frames,), as if silence followed."""
        self._check_open()
        self._finished = True
        total = -(-self._num_samples // SPEECH_FRAME_SAMPLES)
        returned = max(0, self._num_frames - LOOKAHEAD_FRAMES)
        if total == returned:
            return np.zeros(0, dtype=np.float32)
        num_blocks = -(-(total + LOOKAHEAD_FRAMES - self._num_frames) // BLOCK_FRAMES)
        waiting = len(self._samples) - CONTEXT_SAMPLES
        rest = self._run_blocks(np.zeros(num_blocks * BLOCK_SAMPLES - waiting, dtype=np.float32))
        return rest[: total - returned]

    def _check_open(self) -> None:
        if self._finished:
            raise AudioError("this stream is finished; open another one with SpeechDetector.stream()")

    def _run_blocks(self, chunk: Waveform) -> Probabilities:
        """Run the network on every block that the chunk completes."""
        samples = np.concatenate([self._samples, chunk])
        num_blocks = (len(samples) - CONTEXT_SAMPLES) // BLOCK_SAMPLES
        probabilities = np.empty((num_blocks, BLOCK_FRAMES), dtype=np.float32)
        for block in range(num_blocks):
            start = block * BLOCK_SAMPLES
            inputs = {
                "waveform": samples[None, start : start + CONTEXT_SAMPLES + BLOCK_SAMPLES],
                "state": self._state,
            }
            probabilities[block], self._state = self._session.run(None, inputs)
        self._samples = samples[num_blocks * BLOCK_SAMPLES :].copy()
        # The output is late, so its first values are about frames before the first.
        surplus = max(0, LOOKAHEAD_FRAMES - self._num_frames)
        self._num_frames += probabilities.size
        return probabilities.reshape(-1)[surplus:]


def find_speech(
    probabilities: npt.ArrayLike,
    on: float = SPEECH_ON,
    off: float = SPEECH_OFF,
    min_speech_s: float = MIN_SPEECH_S,
    min_silence_s: float = MIN_SILENCE_S,
) -> list[tuple[int, int]]:
    """Return where speech is in a whole recording, as spans of samples [start, end).

    Args:
        probabilities: (frames,) of the recording.
        on: speech starts at a frame whose probability is at least this.
        off: speech ends at a frame whose probability is below this.
        min_speech_s: shorter spans are dropped, after short pauses were bridged.
        min_silence_s: shorter pauses are bridged.

    A span ends after a whole number of frames, so the last one may end up to 319 samples after the recording.
    Raises `ConfigError` if `off` is above `on`.
    """
    if off > on:
        raise ConfigError(f"expected off to be at most on, got off {off} and on {on}")
    values = np.asarray(probabilities)
    is_speech = np.zeros(len(values), dtype=bool)
    speaking = False
    for frame, value in enumerate(values):
        speaking = bool(value >= (off if speaking else on))
        is_speech[frame] = speaking
    edges = np.flatnonzero(np.diff(is_speech, prepend=False, append=False)) * SPEECH_FRAME_SAMPLES
    spans: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if spans and start - spans[-1][1] < min_silence_s * SAMPLE_RATE:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return [(start, end) for start, end in spans if end - start >= min_speech_s * SAMPLE_RATE]
