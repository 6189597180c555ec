"""The inputs of `predict`: files, parts of files, and standard input. And how each is recognised."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from emodistill.audio.channels import Channels
from emodistill.audio.decoding import duration_up_to, num_channels, read_header
from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.errors import AudioError, ConfigError
from emodistill.inference.embedding import Embedding
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.resume import row_key
from emodistill.inference.run_log import logged
from emodistill.inference.segmentation_options import SegmentationOptions
from emodistill.inference.sources import STANDARD_INPUT, audio_of, standard_input
from emodistill.inference.thread_map import map_in_order
from emodistill.inference.voices import SpeechStatistics, Voice

END_TOLERANCE_S = 0.001  # times in lists are rounded

Row = TypeVar("Row", Prediction, Embedding)


@dataclass(frozen=True)
class Input:
    """One utterance: a recording, or a part of it.

    Attributes:
        path: as the user wrote it; the `path` of its row.
        file: where it is; None: at `path`. `-` is standard input.
        id: of the utterance, for the row.
        start_s, end_s: the part, in seconds; None: from the beginning, to the end.
        speaker: of the utterance, for the row.
        channel: the channel to recognise, from 0; None: all channels mixed.
        error: why the input cannot be recognised, if that is known before it is read.
        label: of the utterance, for the row of an embedding.
        opened: the audio as an open file, which can be read again; None: the file at `location`.
    """

    path: str
    file: Path | None = None
    id: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    speaker: str | None = None
    channel: int | None = None
    error: str | None = None
    label: str | None = None
    opened: BinaryIO | None = None

    @property
    def key(self) -> str:
        """What identifies the input in an output that is resumed."""
        return row_key(self.path, self.id, self.start_s, self.end_s, self.channel)

    @property
    def location(self) -> Path:
        """The path of the file."""
        return Path(self.path) if self.file is None else self.file

    @property
    def source(self) -> str | Path | BinaryIO:
        """The audio, from its beginning."""
        if self.opened is None:
            return audio_of(self.location)
        self.opened.seek(0)
        return self.opened

    def duration_s(self) -> float | None:
        """Return the duration in seconds by the header; None where it states none."""
        header = read_header(self.source)
        if header is None or header.duration_s is None:
            return None
        end_s = header.duration_s if self.end_s is None else min(self.end_s, header.duration_s)
        return max(0.0, end_s - (self.start_s or 0.0))

    @property
    def audio(self) -> tuple[Any, ...]:
        """What is equal for inputs of the same audio."""
        return self.location.resolve(), self.start_s, self.end_s, self.channel

    def row(self, computed: Row) -> Row:
        """Return a row with what the user knows of this input, and the end of its part.

        A part that would end after its recording ends with it.
        """
        end_s = self.end_s if computed.error is not None else self._real_end_s()
        return replace(
            computed, path=self.path, id=self.id, start_s=self.start_s, end_s=end_s, speaker=self.speaker
        )

    def window(self, row: Embedding) -> Embedding:
        """Return the embedding of a window with what the user knows, and its times in the recording."""
        if row.start_s is None or row.end_s is None:  # without speech
            return self.row(row)
        start_s, end_s = (round(time_s + (self.start_s or 0.0), 6) for time_s in (row.start_s, row.end_s))
        return replace(row, path=self.path, id=self.id, start_s=start_s, end_s=end_s, speaker=self.speaker)

    def _real_end_s(self) -> float | None:
        if self.end_s is None:
            return None
        source = self.source
        header = read_header(source)
        if header is not None and header.duration_s is not None and not header.is_estimated:
            duration_s = header.duration_s
        else:
            duration_s = duration_up_to(self.end_s, source)
        return self.end_s if self.end_s <= duration_s + END_TOLERANCE_S else round(duration_s, 3)


def inputs_of(files: Sequence[Path]) -> list[Input]:
    """Return an input for each file. Raises `ConfigError` if `-` is there twice, or is a terminal."""
    if [str(file) for file in files].count(STANDARD_INPUT) > 1:
        raise ConfigError("- is there twice, but standard input holds one recording: give it once")
    if Path(STANDARD_INPUT) in files:
        standard_input()
    return [Input(str(file)) for file in files]


def predict_inputs(
    recognizer: Recognizer,
    inputs: Iterable[Input],
    channels: Channels = "mix",
    voice: Voice | None = None,
    jobs: int = 1,
) -> Iterator[list[Prediction]]:
    """Yield the predictions of each input, in order, with `jobs` threads: one for each of `channels`.

    An input with a channel has one prediction. One that cannot be read has one too, with its `error`. The
    other errors are those of `Recognizer.predict`.
    """

    def predictions_of(item: Input) -> list[Prediction]:
        rows: list[Prediction] = []
        try:
            with logged(item.source):
                for channel in _channels_of(item, channels):
                    audio, part = _source(item, channel)
                    row = recognizer.predict(audio, SAMPLE_RATE, voice=voice, channel=part)
                    rows.append(replace(row, channel=channel))
        except AudioError as error:
            rows = [Prediction(item.path, error=str(error), channel=item.channel)]
        return [item.row(row) for row in rows]

    yield from map_in_order(predictions_of, inputs, jobs)


def embed_inputs(
    recognizer: Recognizer,
    inputs: Iterable[Input],
    channels: Channels = "mix",
    voice: Voice | None = None,
    jobs: int = 1,
    windows: SegmentationOptions | None = None,
) -> Iterator[list[Embedding]]:
    """Yield the embeddings of each input, in order, as `predict_inputs` does.

    With `windows` there is one for each window of these options, with the times in the recording.
    """

    def embeddings_of(item: Input) -> list[Embedding]:
        rows: list[Embedding] = []
        try:
            with logged(item.source):
                for channel in _channels_of(item, channels):
                    audio, part = _source(item, channel)
                    if windows is None:
                        found = [item.row(recognizer.embed(audio, SAMPLE_RATE, voice=voice, channel=part))]
                    else:
                        found = recognizer.embed_windows(
                            audio, SAMPLE_RATE, hop_s=windows.hop_s, window_s=windows.window_s, voice=voice,
                            channel=part,
                        )  # fmt: skip
                        found = [item.window(row) for row in found]
                    rows += [replace(row, channel=channel, label=item.label) for row in found]
        except AudioError as error:
            rows = [item.row(Embedding(item.path, error=str(error), channel=item.channel, label=item.label))]
        return rows

    yield from map_in_order(embeddings_of, inputs, jobs)


def statistics_of_inputs(
    recognizer: Recognizer, inputs: Iterable[Input], channels: Channels = "mix", jobs: int = 1
) -> Iterator[list[SpeechStatistics]]:
    """Yield the statistics of each input, in order, with `jobs` threads, as `predict_inputs` does."""

    def statistics_of(item: Input) -> list[SpeechStatistics]:
        rows: list[SpeechStatistics] = []
        try:
            with logged(item.source):
                for channel in _channels_of(item, channels):
                    audio, part = _source(item, channel)
                    row = recognizer.statistics(audio, SAMPLE_RATE, channel=part)
                    rows.append(replace(row, channel=channel))
        except AudioError as error:
            rows = [SpeechStatistics(item.path, error=str(error), channel=item.channel)]
        return [replace(row, path=item.path) for row in rows]

    yield from map_in_order(statistics_of, inputs, jobs)


def num_rows(item: Input, channels: Channels) -> int:
    """Return how many predictions `predict_inputs` gives for an input."""
    try:
        return len(_channels_of(item, channels))
    except AudioError:
        return 1


def _channels_of(item: Input, channels: Channels) -> list[int | None]:
    """Return the channels of an input that have a row: None for all mixed, or channels from 0.

    Raises `AudioError` if the input is known to be bad, or has to be opened and cannot be read.
    """
    if item.error is not None:
        raise AudioError(item.error)
    if item.channel is not None:
        return [item.channel]
    if channels == "split":
        return list(range(num_channels(item.source)))
    return [None if channels == "mix" else int(channels)]


def _source(item: Input, channel: int | None) -> tuple[Any, int | None]:
    """Return the audio of an input, and the channel of this audio that is to be recognised.

    Raises `AudioError` for a part of a recording that cannot be read.
    """
    source = item.source
    if item.start_s is None and item.end_s is None:
        return source, channel
    return load(source, item.start_s, item.end_s, channel), None
