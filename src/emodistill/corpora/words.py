"""The times of words, as an aligner or a speech recogniser gives them, for a corpus.

Three forms are read: a table (.csv, .tsv) with the columns id, start_s, end_s and word; a CTM file (.ctm) of
Kaldi or NeMo; and a folder with one JSON of whisperX for each utterance, ID.json. All times are in seconds
from the start of the utterance.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from emodistill.corpora.base import Corpus, Word
from emodistill.corpora.tables import read_text, table_rows
from emodistill.errors import CorpusError
from emodistill.reading import MAX_JSON_BYTES, parse_json, read_bytes

COLUMNS = ("id", "start_s", "end_s", "word")

# The place of a word in its file, for messages; the id of its utterance; start, end and text.
Entry = tuple[str, str, object, object, str]


def add_words(corpus: Corpus, path: Path) -> Corpus:
    """Return the corpus with the words of its utterances. Utterances that the file lacks keep none.

    Raises `CorpusError` for a missing or damaged file, for an id that the corpus lacks, and for times that
    are no numbers, that are negative or that run backwards. The message names the place.
    """
    by_id: dict[str, list[tuple[str, Word]]] = {}
    for where, utterance_id, start, end, text in _entries(path):
        word = Word(_seconds(start, where), _seconds(end, where), text.strip())
        if not 0 <= word.start_s <= word.end_s:  # aligners write words that last no time
            raise CorpusError(
                f"{where}: the word '{word.text}' runs from {word.start_s:g} to {word.end_s:g} s, expected a "
                "start of 0 or more and an end that is not before it"
            )
        if word.text:
            by_id.setdefault(utterance_id, []).append((where, word))
    for items in by_id.values():
        for (_, earlier), (where, later) in pairwise(items):
            if later.start_s < earlier.start_s:
                raise CorpusError(
                    f"{where}: the word '{later.text}' starts at {later.start_s:g} s, and the word above it "
                    f"at {earlier.start_s:g} s; expected the words of an utterance in order"
                )
    unknown = sorted(by_id.keys() - {utterance.id for utterance in corpus})
    if unknown:
        raise CorpusError(
            f"'{path}' has words of {len(unknown)} ids that '{corpus.name}' lacks, such as '{unknown[0]}'"
        )
    utterances = [
        replace(utterance, words=tuple(word for _, word in by_id[utterance.id]))
        if utterance.id in by_id
        else utterance
        for utterance in corpus
    ]
    return replace(corpus, utterances=tuple(utterances))


def _entries(path: Path) -> Iterator[Entry]:
    if path.is_dir():
        yield from _whisperx(path)
    elif not path.is_file():
        raise CorpusError(
            f"no words '{path}'; expected a table with the columns {', '.join(COLUMNS)}, a .ctm file, or a "
            "folder with one JSON of whisperX for each utterance"
        )
    elif path.suffix == ".ctm":
        yield from _ctm(path)
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        for number, row in table_rows(path, "words", COLUMNS, delimiter):
            yield f"'{path}', row {number}", row["id"], row["start_s"], row["end_s"], row["word"]


def _ctm(path: Path) -> Iterator[Entry]:
    """Read lines `id channel start duration word [confidence]`; `;;` starts a comment."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split()
        if not cells or line.startswith(";;"):
            continue
        where = f"'{path}', line {number}"
        if len(cells) < 5:
            raise CorpusError(f"{where}: {len(cells)} fields, expected id, channel, start, duration and word")
        start_s = _seconds(cells[2], where)
        yield where, cells[0], start_s, start_s + _seconds(cells[3], where), cells[4]


def _whisperx(folder: Path) -> Iterator[Entry]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise CorpusError(f"'{folder}' has no .json file; expected one JSON of whisperX for each utterance")
    for path in files:
        try:
            segments = parse_json(read_bytes(path, MAX_JSON_BYTES))["segments"]
            words = [word for segment in segments for word in segment.get("words", ())]
            timed = [word for word in words if "start" in word and "end" in word]  # numbers may have no times
            for index, word in enumerate(timed):
                yield f"'{path}', word {index + 1}", path.stem, word["start"], word["end"], str(word["word"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(
                f"'{path}' is no JSON of whisperX ({error}); expected segments with words"
            ) from error


def _seconds(value: object, where: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CorpusError(f"{where}: the time is '{value}', expected a number of seconds")
    return number
