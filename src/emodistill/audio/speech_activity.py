"""Speech activity: one probability for each 20 ms of a waveform, by a small packaged network, without torch.

Audio is judged in blocks of a fixed size on the recording's own sample grid, each with the samples just
before it and the state that the block before has left. So a probability depends on the past, on
`LOOKAHEAD_S` of the future and on nothing else, and any chunking of a stream gives the file's own numbers.

How the network was made, and from what, is in `assets/vad.json`.
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
STATE_SIZE = 72  # numbers that the network hands on to the next block
LOOKAHEAD_FRAMES = 10  # the network answers this much late, so it hears what follows a frame
LOOKAHEAD_S = LOOKAHEAD_FRAMES * SPEECH_FRAME_SAMPLES / SAMPLE_RATE  # 0.2

# Of dev speakers alone. 0.5 lies among the thresholds of equal error, 0.43 to 0.56 without noise, in white
# noise at 0 dB, in pink at 10 and 0 dB. OFF was not tuned: below ON, so that a dip inside a word does not end it.
SPEECH_ON = 0.5
SPEECH_OFF = 0.35
# An input with no frame above this holds no speech. The weakest of 558 dev clips of RAVDESS and ASED rises to 0.53
# without noise; the most speech-like of 80 sounds of noise, hum, tones, clicks and simple music rises to 0.29.
NO_SPEECH = 0.3

MIN_SPEECH_S = 0.1  # a shorter span is dropped
MIN_SILENCE_S = 0.2  # a shorter pause is bridged

ASSETS = files("emodistill") / "assets"
Probabilities = npt.NDArray[np.float32]


class SpeechDetector:
    """The packaged network. Thread-safe: what is heard is kept in streams alone."""

    def __init__(self, threads: int = 1) -> None:
        """Load the network; `threads` for one run of it, and more than one seldom helps.

        Raises `ModelError` where its files are missing or not those that were packaged.
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
                f"'{ASSETS / 'vad.onnx'}' was changed: its SHA-256 is {digest[:12]}…, vad.json says "
                f"{expected[:12]}…; install emodistill again"
            )
        self._session = open_session(network, threads)

    def probabilities(self, waveform: Waveform) -> Probabilities:
        """Speech probabilities (ceil(samples / 320),) of a waveform (samples,), one for each frame.

        Raises `AudioError` for samples that are not one finite row of numbers.
        """
        stream = self.stream()
        return np.concatenate([stream.push(waveform), stream.finish()])

    def stream(self) -> "SpeechStream":
        """Start listening to a waveform that comes in chunks."""
        return SpeechStream(self._session)


class SpeechStream:
    """One waveform in chunks. It keeps less than a block of samples and the network's state."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._samples: Waveform = np.zeros(CONTEXT_SAMPLES, dtype=np.float32)  # context, then what waits
        self._state = np.zeros((1, 1, STATE_SIZE), dtype=np.float32)
        self._num_samples = 0  # that came
        self._num_judged = 0  # frames that the network has heard
        self._finished = False

    def push(self, waveform: Waveform) -> Probabilities:
        """Hear a chunk (samples,) of any length; the probabilities (frames,) that it decides, in order.

        Raises `AudioError` for samples that are not one finite row of numbers, and keeps what came before.
        """
        self._check_open()
        chunk = np.asarray(waveform, dtype=np.float32)
        if chunk.ndim != 1:
            raise AudioError(f"expected a waveform (samples,), got shape {chunk.shape}")
        if not np.isfinite(chunk).all():
            raise AudioError("expected finite samples, got NaN or Inf")
        self._num_samples += len(chunk)
        return self._hear(chunk)

    def finish(self) -> Probabilities:
        """The probabilities (frames,) of the rest, as if silence followed; then the stream is closed."""
        self._check_open()
        self._finished = True
        total = -(-self._num_samples // SPEECH_FRAME_SAMPLES)
        decided = max(0, self._num_judged - LOOKAHEAD_FRAMES)
        if total == decided:
            return np.zeros(0, dtype=np.float32)
        blocks = -(-(total + LOOKAHEAD_FRAMES - self._num_judged) // BLOCK_FRAMES)
        waiting = len(self._samples) - CONTEXT_SAMPLES
        rest = self._hear(np.zeros(blocks * BLOCK_SAMPLES - waiting, dtype=np.float32))
        return rest[: total - decided]

    def _check_open(self) -> None:
        if self._finished:
            raise AudioError("this stream is finished; start another with SpeechDetector.stream()")

    def _hear(self, chunk: Waveform) -> Probabilities:
        """Run the network on every block that is complete now."""
        samples = np.concatenate([self._samples, chunk])
        num_blocks = (len(samples) - CONTEXT_SAMPLES) // BLOCK_SAMPLES
        out = np.empty((num_blocks, BLOCK_FRAMES), dtype=np.float32)
        for block in range(num_blocks):
            start = block * BLOCK_SAMPLES
            heard = samples[None, start : start + CONTEXT_SAMPLES + BLOCK_SAMPLES]
            out[block], self._state = self._session.run(None, {"waveform": heard, "state": self._state})
        self._samples = samples[num_blocks * BLOCK_SAMPLES :].copy()
        early = max(0, LOOKAHEAD_FRAMES - self._num_judged)  # answers about frames before the first
        self._num_judged += out.size
        return out.reshape(-1)[early:]


def find_speech(
    probabilities: npt.ArrayLike,
    on: float = SPEECH_ON,
    off: float = SPEECH_OFF,
    min_speech_s: float = MIN_SPEECH_S,
    min_silence_s: float = MIN_SILENCE_S,
) -> list[tuple[int, int]]:
    """Where speech is, as spans of samples [start, end), for a whole recording.

    Speech starts where a probability reaches `on` and ends where one falls below `off`. Pauses shorter than
    `min_silence_s` are bridged, then spans shorter than `min_speech_s` are dropped. `probabilities` has
    shape (frames,); a span's end is a whole number of frames, so the last may be up to 319 samples past the
    recording's end. Raises `ConfigError` where `off` is above `on`.
    """
    if off > on:
        raise ConfigError(f"expected off to be at most on, got off {off} and on {on}")
    active = np.zeros(len(values := np.asarray(probabilities)), dtype=bool)
    speaking = False
    for frame, value in enumerate(values):
        speaking = bool(value >= (off if speaking else on))
        active[frame] = speaking
    edges = np.flatnonzero(np.diff(active, prepend=False, append=False)) * SPEECH_FRAME_SAMPLES
    found: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if found and start - found[-1][1] < min_silence_s * SAMPLE_RATE:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return [(start, end) for start, end in found if end - start >= min_speech_s * SAMPLE_RATE]
