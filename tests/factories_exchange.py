"""Corpora for round trips through the formats of other programs."""

import tempfile
from dataclasses import replace
from pathlib import Path

import factories as make
import soundfile
from hypothesis import strategies as st

from emodistill.corpora import (
    TABLE_READERS,
    Corpus,
    TableOptions,
    Utterance,
    drop_bad_audio,
    read_own_table,
)
from emodistill.corpora.writers import write_corpus
from emodistill.labels import EMOTIONS

RATE_HZ = 16_000
NAMES = ("a b.wav", "sub/zażółć, 'gęślą'.flac", "c%20[1].wav")
_text = (
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)
    .map(str.strip)
    .filter(bool)
)
_words = st.lists(_text, min_size=1, max_size=4).map(" ".join)


@st.composite
def corpora(draw: st.DrawFn, with_parts: bool = True) -> list[Utterance]:
    """Utterances whose paths start at a folder of `recordings`; the first one has an emotion.

    A format of tables has no table of emotions without one. Without parts, each has its own recording.
    """
    is_parted = with_parts and draw(st.booleans())
    ids = draw(st.lists(_text, min_size=1, max_size=3, unique_by=str.casefold))
    has_splits = draw(st.booleans())
    utterances = []
    for number, name in enumerate(ids):
        transcript = draw(st.none() | _words)
        scale = draw(st.sampled_from([None, (1.0, 5.0), (-1.5, 1.0)]))
        value = st.none() | st.floats(*(scale or (1.0, 5.0)))
        utterances.append(
            Utterance(
                id=name,
                speaker=draw(_text),
                emotion=draw(st.sampled_from(EMOTIONS if number == 0 else (None, *EMOTIONS))),
                path=Path(NAMES[number]),
                start_s=draw(st.sampled_from([0.1, 0.25])) if is_parted else None,
                end_s=draw(st.sampled_from([0.5, 0.625])) if is_parted else None,
                session=draw(st.none() | _text),
                gender=draw(st.sampled_from([None, "female", "male"])),
                language=draw(st.sampled_from([None, "en", "pl"])),
                transcript=transcript,
                transcript_source=draw(st.sampled_from(["gold", "whisper"])) if transcript else None,
                split=draw(st.sampled_from(["train", "dev", "test"])) if has_splits else None,
                arousal=draw(value),
                valence=draw(value),
                votes=draw(st.sampled_from([None, '{"sad": 2, "angry": 1}'])),
                corpus=draw(_text),
                scale=scale,
            )
        )
    return utterances


def recordings(folder: Path) -> None:
    """Write the recordings of `NAMES`."""
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, make.speech(0.7), RATE_HZ)


def prepared(name: str, source: Path, options: TableOptions | None = None, **given: dict[str, str]) -> Corpus:
    """Return what `corpus prepare NAME SOURCE --labels all` writes."""
    options = options or TableOptions()
    table = TABLE_READERS[name].read(source, options)
    emotions = given.get("emotions", {})
    return read_own_table(table, options.columns, emotions, "all", options.root, lambda text: None)


def round_trip(utterances: list[Utterance], name: str, *, copy_audio: bool | None = None) -> None:
    """Write a corpus, prepare it again, and compare utterances and samples."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        recordings(folder / "given")
        rows = [replace(item, path=folder / "given" / (item.path or "")) for item in utterances]
        corpus, _ = drop_bad_audio(Corpus("given", tuple(rows)))
        write_corpus(corpus, name, folder / "out dir", copy_audio=copy_audio)
        back, problems = drop_bad_audio(prepared(name, folder / "out dir"))
        assert not problems
        found = {item.id: item for item in back}
        assert found.keys() == {item.id for item in corpus}
        for item in corpus:
            other = found[item.id]
            assert samples(other) == samples(item)
            same = replace(other, path=item.path, start_s=item.start_s, end_s=item.end_s)
            assert same == item


def samples(item: Utterance) -> bytes:
    """Return the samples of an utterance, read from its file."""
    start, stop = (None if end is None else round(end * RATE_HZ) for end in (item.start_s, item.end_s))
    assert item.path is not None
    return bytes(soundfile.read(item.path, start=start or 0, stop=stop, dtype="int16")[0])
