"""The rows of `predict` for files of several channels: one for each file, or one for each channel."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from emodistill.audio.channels import Channels
from emodistill.audio.decoding import num_channels
from emodistill.errors import AudioError
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.thread_map import map_in_order
from emodistill.inference.voices import SpeechStatistics, Voice


def channels_of(file: Path, channels: Channels) -> list[int | None]:
    """Return the channels of a file that have a row: None for the mix of all, or channels from 0.

    Raises `AudioError` if the file has to be opened and cannot be read.
    """
    if channels == "split":
        return list(range(num_channels(file)))
    return [None if channels == "mix" else int(channels)]


def predict_channels(
    recognizer: Recognizer,
    files: Sequence[Path],
    channels: Channels = "mix",
    voice: Voice | None = None,
    jobs: int = 1,
) -> Iterator[list[Prediction]]:
    """Yield the predictions of the channels of each file, in order, with `jobs` threads.

    A file that cannot be read has one prediction, with its `error`. The other errors are those of
    `Recognizer.predict`.
    """

    def predictions_of(file: Path) -> list[Prediction]:
        try:
            return [
                recognizer.predict(file, voice=voice, channel=channel)
                for channel in channels_of(file, channels)
            ]
        except AudioError as error:
            return [Prediction(str(file), error=str(error))]

    yield from map_in_order(predictions_of, files, jobs)


def statistics_of_channels(
    recognizer: Recognizer, files: Sequence[Path], channels: Channels = "mix", jobs: int = 1
) -> Iterator[list[SpeechStatistics]]:
    """Yield the statistics of the channels of each file, in order, with `jobs` threads.

    A file that cannot be read has one entry, with its `error`.
    """

    def statistics_of(file: Path) -> list[SpeechStatistics]:
        try:
            return [recognizer.statistics(file, channel=channel) for channel in channels_of(file, channels)]
        except AudioError as error:
            return [SpeechStatistics(str(file), error=str(error))]

    yield from map_in_order(statistics_of, files, jobs)
