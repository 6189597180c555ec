"""Emotion over time in recordings of any length, for the speech that is found or for given segments."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from emodistill.audio.channels import ChannelMeter, Channels, check_channels, speaker_names
from emodistill.audio.decoding import BlockSource, RatedArray, name_in_messages
from emodistill.audio.recording import SILENCE_PEAK, AudioSource, decodable_source
from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import SAMPLE_RATE, check_rate, load_channels, measure_channels
from emodistill.errors import AudioError, ConfigError, one_of
from emodistill.inference.adapted_windows import Adapt, check_adaptation, window_scorer
from emodistill.inference.given_segments import GivenSegment, GivenSegments
from emodistill.inference.lanes import GivenLane, Lane, SpeechLane
from emodistill.inference.run_log import logged
from emodistill.inference.segmentation import Segment, WindowScorer, WindowUpdate
from emodistill.inference.segmentation_options import (
    HOP_S,
    MIN_DURATION_S,
    SMOOTH_S,
    WINDOW_S,
    SegmentationOptions,
)
from emodistill.inference.sources import audio_of, source_name
from emodistill.inference.streaming import Detector
from emodistill.inference.thread_map import map_in_order
from emodistill.inference.voices import Voice
from emodistill.inference.window_classifier import WindowClassifier, check_emotions

if TYPE_CHECKING:
    import pandas

# In a recording that is split, a channel with a lower peak is amplified to QUIET_PEAK. The detector loses
# speech below a peak of 0.003.
LOW_PEAK, QUIET_PEAK = 0.01, 0.1

TimelineSource = AudioSource


@dataclass(frozen=True)
class Trace:
    """What a picture of a timeline shows besides the segments.

    Attributes:
        envelope: (peaks,) the largest magnitude in every `ENVELOPE_SAMPLES`.
        updates: the update of each window; empty if segments were given, and for several channels.
        channels: the trace of each channel, if the recording was split; empty if segments were given.
    """

    envelope: npt.NDArray[np.float32]
    updates: tuple[WindowUpdate, ...]
    channels: tuple["Trace", ...] = ()


@dataclass(frozen=True)
class Timeline:
    """The segments of one recording in order of time.

    If there are none, `reason` states why no speech was found, or `error` why the recording could not be
    read.
    """

    path: str  # empty if the source was not a path
    duration_s: float | None = None
    segments: tuple[Segment, ...] = ()
    summary: dict[str, float] = field(default_factory=dict)  # seconds of each emotion
    reason: Literal["silence", "no_speech", "too_short"] | None = None
    error: str | None = None
    trace: Trace | None = field(default=None, compare=False, repr=False)  # only with `traced`
    speakers: dict[str, dict[str, float]] | None = None  # the summary of each speaker; None: no speakers
    mixed_channels: int | None = field(default=None, compare=False, repr=False)  # that differ; not in JSON

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Timeline":
        """Return the timeline that `as_dict` wrote."""
        return cls(**{**data, "segments": tuple(Segment(**segment) for segment in data["segments"])})

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, keys in a fixed order, without `trace` and `mixed_channels`.

        `speakers` is left out where it is None. `Timeline.from_dict(timeline.as_dict())` equals the timeline.
        """
        data: dict[str, Any] = {
            "path": self.path,
            "duration_s": self.duration_s,
            "segments": [segment.as_dict() for segment in self.segments],
            "summary": dict(self.summary),
            "reason": self.reason,
            "error": self.error,
        }
        if self.speakers is not None:
            data["speakers"] = {name: dict(summary) for name, summary in self.speakers.items()}
        return data

    def to_frame(self) -> "pandas.DataFrame":
        """Return a data frame of pandas with one row for each segment, and the columns of the CSV format.

        A probability is in the column `p_` and the emotion's name. A recording without segments has one row
        with its `reason` or `error`. A missing value is NaN among numbers, and `pandas.NA` among texts.
        Raises `MissingExtraError` without pandas.
        """
        from emodistill.inference.data_frames import segments_frame

        return segments_frame(self, list(self.summary) or None)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the sound, a strip of the emotions and their probabilities."""
        from emodistill.inference.notebook import timeline_html

        return timeline_html(self.as_dict())


class TimelineOptions(TypedDict, total=False):
    """The options of `timeline` that are the same for many recordings."""

    hop_s: float
    window_s: float
    smooth_s: float
    min_duration_s: float
    traced: bool
    voice: Voice | Mapping[str, Voice] | None
    adapt: Adapt
    channels: Channels
    names: Sequence[str] | None


# Long: each parameter is an option, and the docstring describes all of them.
def timeline(
    source: TimelineSource,
    recognizer: WindowClassifier,
    rate_hz: int | None = None,
    *,
    given: Sequence[GivenSegment] | None = None,
    hop_s: float = HOP_S,
    window_s: float = WINDOW_S,
    smooth_s: float = SMOOTH_S,
    min_duration_s: float = MIN_DURATION_S,
    detector: Detector | None = None,
    traced: bool = False,
    max_s: float | None = None,
    voice: Voice | Mapping[str, Voice] | None = None,
    adapt: Adapt = "none",
    channels: Channels = "mix",
    names: Sequence[str] | None = None,
) -> Timeline:
    """Return the emotions over time in one recording.

    The recording is decoded and classified block by block, so memory does not grow with its length. With
    `adapt="recording"`, and with `adapt` for given segments, the statistics of all windows are kept too: for
    an hour about 30 kB times `Recognizer.voice_dim`. The model still runs once for each window.

    With `adapt`, the windows are compared with a voice that is learned from the recording itself, without
    labels. Do not use "recording" or "running" where a speaker has one emotion only: this emotion is then the
    usual. "auto" notices most of these recordings. Among given segments, each speaker has a voice of their
    own; segments without a speaker share one. A given segment is never compared with itself. So a speaker's
    only segment has no voice, and `voice_utterances` is 0.

    With `channels="split"` each channel is a speaker, with speech detection and a voice of its own. A channel
    with a peak below 0.01 is amplified. The recording is then decoded twice. A segment states its `channel`
    and its `speaker`, and `Timeline.speakers` has the summary of each.

    Args:
        source: a path, the bytes of a file, an open binary file or pipe, or an array of samples (n,) or
            (n, channels).
        recognizer: classifies the windows, and answers for the segments.
        rate_hz: the rate of an array, which needs it; files state their own.
        given: classify these segments instead of the speech that is found, each by the mean over its windows.
            A segment with a `channel` is read from that channel.
        hop_s: from one window to the next, at least 0.1.
        window_s: the length of a window, a whole number of hops.
        smooth_s: how strongly changes of emotion are smoothed, 0 to 60: the higher, the more evidence a
            change needs. 0: each stretch of speech stands alone. Given segments are not smoothed.
        min_duration_s: the least speech of an emotion, if there is another one, 0 to 60.
        detector: finds the speech; None: the packaged one.
        traced: fill `trace`, which a picture needs.
        max_s: the longest recording that is accepted; longer ones are decoded no further.
        voice: of the speaker, from `Recognizer.enrol`. All windows are compared with its usual. Or the voices
            of several speakers by name, for channels that are split and for given segments; a speaker without
            a voice is recognised without one.
        adapt: "none": without a voice, or with `voice`. "recording": all windows are compared with the mean
            over the speech of the recording; a given segment with the speaker's other segments, without those
            that overlap it. "auto": as "recording" if the recording then evidently has several emotions, else
            as "none"; not for given segments. "running": each window is compared with the speech before it,
            as in a stream; a given segment with the speaker's segments that end before it starts.
        channels: "mix": the mean of all channels. "split": each channel on its own. Or one channel, from 0.
        names: the speakers in the channels, in order, for "split"; None: "channel 0", "channel 1", ….

    Raises:
        AudioError: the audio cannot be read, has no such channel, or is an array without `rate_hz`. A given
            segment begins after the end of the audio.
        AudioTooLongError: the audio is longer than `max_s`.
        ConfigError: the hop, the window, `smooth_s` or `min_duration_s` is out of range, or a given segment
            does not end after its start.
            `adapt` or `channels` has another value, there are more or fewer `names` than channels, a voice is
            of no speaker, or there is a voice together with `adapt`.
        ModelError: the model has no emotions or no voices, or the voice is one of another model.
    """
    segmentation = SegmentationOptions(hop_s, window_s, smooth_s, min_duration_s)
    check_options(recognizer, given is not None, voice=voice, adapt=adapt, channels=channels, names=names)
    name, decodable = source_name(source), _block_source(source, rate_hz)
    spoken = name_in_messages(decodable)
    # A given segment may be compared with segments that end while it is read, so there are two passes.
    passes: Adapt = "recording" if given is not None and adapt != "none" else adapt
    split = _Split.of(decodable, names, max_s) if channels == "split" else None
    plan = _plan(given, channels, split, voice, spoken)

    def scorer(speaker_voice: Voice | None) -> WindowScorer:
        return window_scorer(recognizer, segmentation, speaker_voice, passes)

    lanes: list[Lane] = []
    for part in plan:
        gain = 1.0 if split is None or part.channel is None else split.gains[part.channel]
        lanes.append(
            SpeechLane(scorer(part.voice), detector, part.channel, part.speaker, gain, traced)
            if part.given is None
            else GivenLane(scorer(part.voice), part.given, adapt, spoken, part.channel, part.speaker, traced)
        )
    meter = ChannelMeter()
    for pieces in load_channels(decodable, [lane.channel for lane in lanes], max_s, meter):
        for lane, piece in zip(lanes, pieces, strict=True):
            lane.push(piece)
    for lane in lanes:
        lane.finish()
    return _joined(lanes, recognizer.emotions, name, [] if split is None else split.names, meter)


def segmentation_options(options: TimelineOptions) -> SegmentationOptions:
    """Return the options of segmentation among those of `timeline`; raise `ConfigError` out of range."""
    return SegmentationOptions(
        options.get("hop_s", HOP_S),
        options.get("window_s", WINDOW_S),
        options.get("smooth_s", SMOOTH_S),
        options.get("min_duration_s", MIN_DURATION_S),
    )


def _block_source(source: TimelineSource, rate_hz: int | None) -> BlockSource:
    """Return a source that can be decoded block by block. Raises `AudioError` for one that cannot."""
    if not isinstance(source, np.ndarray) and hasattr(source, "__array__"):  # for example a tensor
        source = np.asarray(source)
    if isinstance(source, np.ndarray):
        return RatedArray(source, check_rate(rate_hz))
    return decodable_source(
        source, "a path, the bytes of a file, a file opened in binary mode or a NumPy array"
    )


def check_options(
    recognizer: WindowClassifier, has_segments: bool, **options: Unpack[TimelineOptions]
) -> None:
    """Raise the errors of `timeline` for options that no recording can have.

    `has_segments`: the segments are given.
    """
    voice, adapt = options.get("voice"), options.get("adapt", "none")
    channels, names = options.get("channels", "mix"), options.get("names")
    check_emotions(recognizer)
    check_channels(channels, names)
    segmentation_options(options)
    if has_segments and adapt == "auto":
        raise ConfigError(
            "adapt 'auto' is for speech that is found, but segments are given: choose none, recording or "
            "running"
        )
    if not isinstance(voice, Mapping):
        check_adaptation(recognizer, voice, adapt)
        return
    for each in voice.values() or [None]:
        check_adaptation(recognizer, each, adapt)
    if voice and not has_segments and channels != "split":
        raise ConfigError(
            f"voices of several speakers ({', '.join(voice)}) need channels 'split' or given segments with "
            "speakers"
        )
    if names is not None and not has_segments:
        _check_speakers(voice, names)


@dataclass(frozen=True)
class _Split:
    """The channels of a recording that is split: the name and the gain of each."""

    names: list[str]
    gains: list[float]

    @classmethod
    def of(cls, source: BlockSource, names: Sequence[str] | None, max_s: float | None) -> "_Split":
        """Measure the channels of a source."""
        meter = measure_channels(source, max_s)
        recording = name_in_messages(source)
        gains = [QUIET_PEAK / peak if SILENCE_PEAK <= peak < LOW_PEAK else 1.0 for peak in meter.peaks]
        return cls(speaker_names(meter.num_channels, names, recording), gains)


@dataclass(frozen=True)
class _Part:
    """What one lane recognises."""

    channel: int | None
    speaker: str | None
    voice: Voice | None
    given: Sequence[GivenSegment] | None = None


def _plan(
    given: Sequence[GivenSegment] | None,
    channels: Channels,
    split: _Split | None,
    voice: Voice | Mapping[str, Voice] | None,
    recording: str,
) -> list[_Part]:
    """Return what each lane recognises. Raises `ConfigError` as `timeline` does."""
    voices = voice if isinstance(voice, Mapping) else {}
    common = None if isinstance(voice, Mapping) else voice
    if given is None and split is None:
        return [_Part(None if channels == "mix" else int(channels), None, common)]
    if given is None:
        assert split is not None
        _check_speakers(voices, split.names)
        return [_Part(channel, name, voices.get(name, common)) for channel, name in enumerate(split.names)]
    groups: dict[tuple[int | None, str | None], list[GivenSegment]] = {}
    for segment in given:
        channel = segment.channel
        if channel is None and split is not None:
            raise ConfigError(
                f"{recording}: the given segment from {segment.start_s} s to {segment.end_s} s has no "
                "channel, so channels 'split' does not know where it is: leave 'split' out"
            )
        if channel is None and channels != "mix":
            channel = int(channels)
        groups.setdefault((channel, segment.speaker if voices else None), []).append(segment)
    if not groups:
        groups[None if isinstance(channels, str) else int(channels), None] = []
    speakers = [segment.speaker for segment in given if segment.speaker is not None]
    _check_speakers(voices, [*speakers, *(() if split is None else split.names)])
    parts = []
    for (channel, speaker), segments in groups.items():
        known = split is not None and channel is not None and channel < len(split.names)
        name = split.names[channel] if split is not None and channel is not None and known else None
        parts.append(_Part(channel, name, voices.get(speaker or name or "", common), segments))
    return parts


def _check_speakers(voices: Iterable[str], speakers: Sequence[str]) -> None:
    for name in voices:
        if not speakers:
            raise ConfigError(
                f"a voice is of the speaker '{name}', but no segment names its speaker: give one voice"
            )
        if name not in speakers:
            raise ConfigError(one_of("speaker of a voice", name, list(dict.fromkeys(speakers))))


def _joined(
    lanes: Sequence[Lane], emotions: Sequence[str], name: str, speakers: Sequence[str], meter: ChannelMeter
) -> Timeline:
    """Return the timeline of all lanes of one recording."""
    segments = [segment for lane in lanes for segment in lane.segments]
    if len(lanes) > 1:
        segments.sort(
            key=lambda part: (part.start_s, part.end_s, -1 if part.channel is None else part.channel)
        )
    reason: Literal["silence", "no_speech", "too_short"] | None = None
    if not segments and all(isinstance(lane, SpeechLane) for lane in lanes):
        reasons = {lane.level.unusable_reason() or "no_speech" for lane in lanes}
        reason = reasons.pop() if len(reasons) == 1 else "no_speech"
    # Channels cannot be split where segments without a channel are given.
    mixed = any(isinstance(lane, SpeechLane) and lane.channel is None for lane in lanes) and meter.differ
    return Timeline(
        name,
        lanes[0].num_samples / SAMPLE_RATE,
        tuple(segments),
        seconds_by_emotion(segments, emotions),
        reason,
        trace=_trace(lanes, bool(speakers)),
        speakers=seconds_by_speaker(segments, emotions, speakers),
        mixed_channels=meter.num_channels if mixed else None,
    )


def _trace(lanes: Sequence[Lane], is_split: bool) -> Trace | None:
    if not lanes[0].traced:
        return None
    traces = tuple(Trace(lane.envelope(), tuple(lane.updates)) for lane in lanes)
    if len(lanes) == 1 and not is_split:
        return traces[0]
    highest = np.max([trace.envelope for trace in traces], axis=0)
    has_channels = is_split and all(isinstance(lane, SpeechLane) for lane in lanes)
    return Trace(highest, traces[0].updates if len(lanes) == 1 else (), traces if has_channels else ())


def seconds_by_emotion(segments: Iterable[Segment], emotions: Sequence[str]) -> dict[str, float]:
    """Return the seconds of each emotion, in the order of `emotions`."""
    seconds = dict.fromkeys(emotions, 0.0)
    for segment in segments:
        if segment.emotion is not None:
            seconds[segment.emotion] += segment.end_s - segment.start_s
    return {emotion: round(length_s, 6) for emotion, length_s in seconds.items()}


def seconds_by_speaker(
    segments: Iterable[Segment], emotions: Sequence[str], speakers: Iterable[str] = ()
) -> dict[str, dict[str, float]] | None:
    """Return what `seconds_by_emotion` returns for each speaker: those named, then others as they appear.

    None if there are no speakers.
    """
    by_speaker: dict[str, list[Segment]] = {name: [] for name in speakers}
    for segment in segments:
        if segment.speaker is not None:
            by_speaker.setdefault(segment.speaker, []).append(segment)
    return {name: seconds_by_emotion(parts, emotions) for name, parts in by_speaker.items()} or None


def timelines(
    sources: Iterable[str | Path],
    recognizer: WindowClassifier,
    *,
    given: GivenSegments | None = None,
    jobs: int = 1,
    detector: Detector | None = None,
    **options: Unpack[TimelineOptions],
) -> Iterator[Timeline]:
    """Yield one timeline for each path, in order, with `jobs` threads. The options are those of `timeline`.

    The path `-` is the audio of standard input.

    A recording that cannot be read, or that has no given segments, gives a timeline with its `error`. Raises
    the errors of `timeline` for options that no recording can have.
    """
    check_options(recognizer, given is not None, **options)
    shared_detector = detector or (SpeechDetector() if given is None else None)

    def timeline_of(source: str | Path) -> Timeline:
        try:
            segments = None if given is None else given.for_recording(source)
            audio = audio_of(source)
            with logged(audio):
                row = timeline(audio, recognizer, given=segments, detector=shared_detector, **options)
            return replace(row, path=str(source))
        except (AudioError, ConfigError) as error:
            return Timeline(str(source), error=str(error))

    yield from map_in_order(timeline_of, sources, jobs)
