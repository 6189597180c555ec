"""Levels of recordings: loudness, DC offset and clipping, and how they differ between pooled corpora."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emodistill.audio.waveform import Waveform
from emodistill.corpora import Corpus

FULL_SCALE = 0.999  # of the largest value that PCM can hold; an encoder may have moved a clipped sample
CLIPPED_RUN = 3  # samples in a row at full scale; a single one may be the peak of a normalised recording
MAX_DC = 0.1  # of the RMS level; a larger DC offset is 1 % of the energy
SILENT_DBFS = -90.0  # about the level of the last bit of 16
MAX_LEVEL_DIFFERENCE_DB = 6.0  # between the median levels of pooled corpora
_NUM_LISTED = 3  # recordings that a warning names


@dataclass(frozen=True)
class Level:
    """The level of one recording or segment."""

    rms_dbfs: float  # without the DC offset; a full-scale sine has -3
    dc: float  # absolute mean, as a share of the RMS level
    is_clipped: bool  # `CLIPPED_RUN` samples in a row at full scale, in some channel


@dataclass(frozen=True)
class CorpusLevels:
    """The levels of the recordings of one corpus. Its field names are keys of the JSON."""

    num_recordings: int
    rms_dbfs_median: float
    rms_dbfs_5: float  # 5 % of the recordings are below, and 5 % above the next
    rms_dbfs_95: float
    rms_dbfs_min: float
    rms_dbfs_max: float
    dc_95: float  # share of the RMS level that 5 % of the recordings are above
    dc_offsets: tuple[str, ...]  # utterances with a DC offset above `MAX_DC`
    clipped: tuple[str, ...]  # utterances with clipped samples
    silent: tuple[str, ...]  # utterances below `SILENT_DBFS`


def measure_level(waveform: Waveform, frames: npt.NDArray[np.float32]) -> Level:
    """Return the level of a recording.

    Args:
        waveform: (samples,), at 16 kHz.
        frames: (samples, channels), as decoded: resampling hides clipped samples.
    """
    mean = float(waveform.mean(dtype=np.float64))
    rms = float(np.sqrt(np.mean((waveform - mean) ** 2, dtype=np.float64)))
    full = np.abs(frames) >= FULL_SCALE
    in_row = full[: len(full) - CLIPPED_RUN + 1]
    for shift in range(1, CLIPPED_RUN):
        in_row = in_row & full[shift : len(full) - CLIPPED_RUN + 1 + shift]
    is_clipped = len(full) >= CLIPPED_RUN and bool(in_row.any())
    return Level(20 * float(np.log10(max(rms, 1e-6))), abs(mean) / max(rms, 1e-6), is_clipped)


def levels_by_corpus(corpus: Corpus, levels: Mapping[str, Level]) -> dict[str, CorpusLevels]:
    """Return the levels of each pooled corpus; `levels` are those of the recordings that could be read."""
    ids: dict[str, list[str]] = defaultdict(list)
    for utterance in corpus:
        if utterance.id in levels:
            ids[utterance.corpus or corpus.name].append(utterance.id)
    return {name: _summarise(members, levels) for name, members in ids.items()}


def _summarise(ids: Sequence[str], levels: Mapping[str, Level]) -> CorpusLevels:
    rms = np.array([levels[name].rms_dbfs for name in ids])
    low, median, high = (float(value) for value in np.percentile(rms, [5, 50, 95]))
    return CorpusLevels(
        num_recordings=len(ids),
        rms_dbfs_median=median,
        rms_dbfs_5=low,
        rms_dbfs_95=high,
        rms_dbfs_min=float(rms.min()),
        rms_dbfs_max=float(rms.max()),
        dc_95=float(np.percentile([levels[name].dc for name in ids], 95)),
        dc_offsets=tuple(name for name in ids if levels[name].dc > MAX_DC),
        clipped=tuple(name for name in ids if levels[name].is_clipped),
        silent=tuple(name for name in ids if levels[name].rms_dbfs < SILENT_DBFS),
    )


def level_warnings(by_corpus: Mapping[str, CorpusLevels]) -> tuple[str, ...]:
    """Return a warning for each corpus with DC offsets, clipped or silent recordings, and on its level.

    The level of a corpus is compared with that of the loudest one in the pool.
    """
    warnings = []
    for name, levels in by_corpus.items():
        for ids, problem in (
            (levels.dc_offsets, f"have a DC offset above {100 * MAX_DC:.0f} % of their RMS level"),
            (levels.clipped, f"are clipped: {CLIPPED_RUN} or more samples in a row at full scale"),
            (levels.silent, f"are silent: below {SILENT_DBFS:.0f} dBFS"),
        ):
            if ids:
                more = ", …" if len(ids) > _NUM_LISTED else ""
                examples = ", ".join(f"'{item}'" for item in ids[:_NUM_LISTED])
                share = 100 * len(ids) / levels.num_recordings
                warnings.append(
                    f"{len(ids)} of {levels.num_recordings} recordings of {name} ({share:.1f} %) {problem} "
                    f"({examples}{more})"
                )
    if by_corpus:
        loudest = max(by_corpus, key=lambda name: by_corpus[name].rms_dbfs_median)
        for name, levels in by_corpus.items():
            below = by_corpus[loudest].rms_dbfs_median - levels.rms_dbfs_median
            if below > MAX_LEVEL_DIFFERENCE_DB:
                warnings.append(
                    f"{name} is {below:.0f} dB quieter than {loudest}: a model can tell them apart by "
                    "level, which augment.gain_db varies"
                )
    return tuple(warnings)
