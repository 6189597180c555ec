"""Read the corpus that a recipe names: relabel it, add scales and transcripts, and leave out bad audio."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from emodistill.audio.decoding import MEDIA_SUFFIXES, SUFFIXES
from emodistill.config import CorpusConfig
from emodistill.corpora.base import NO_EMOTION, Corpus, Utterance, drop_bad_audio
from emodistill.corpora.dimensions import check_dimensions, with_a_target, with_scale
from emodistill.corpora.manifest import check_manifest, find_layout, missing_columns, read_manifest, read_rows
from emodistill.corpora.readers import READERS
from emodistill.corpora.tables import TABLE_SUFFIXES, Table, read_table, table_rows, write_audio
from emodistill.corpora.words import add_words
from emodistill.errors import ConfigError, CorpusError, one_of
from emodistill.labels import (
    DIMENSIONS,
    EMOTIONS,
    LABEL_MAPS,
    LEFT_OUT,
    LabelMap,
    LabelSet,
    Scale,
    get_label_map,
)

_NUM_LISTED = 10  # utterances with bad audio that are named


def read_corpus(
    name: str,
    root: Path,
    labels: str | None = None,
    emotions: Mapping[str, str] | None = None,
    *,
    keep_left_out: bool = False,
) -> Corpus:
    """Read a corpus from the folder that its authors distribute, and apply a label map.

    Args:
        name: the name of a reader, such as "ravdess".
        root: the corpus's folder.
        labels: the name of a map in `emodistill.labels`, a list such as "angry,sad", or "all". "all" keeps
            even utterances without an agreed emotion. None: the default of the reader.
        emotions: renames emotions of the corpus before the label map is applied: {emotion: other emotion, or
            "-" to leave it out}.
        keep_left_out: keep utterances of emotions that `emotions` leaves out, without an emotion. They remain
            with the labels "all".

    Raises:
        CorpusError: an unknown corpus or emotion, or a folder that the reader cannot read.
        ConfigError: an unknown label map.
    """
    corpus = _read_folder(name, root)
    _check_emotion_map(emotions or {}, corpus.labels.names, f"corpus '{name}'")
    return _relabel(corpus, labels or READERS[name].default_labels, emotions or {}, keep_left_out)


def _read_folder(name: str, root: Path) -> Corpus:
    if name not in READERS:
        raise CorpusError(one_of("corpus", name, READERS))
    return READERS[name].read(Path(root))


def _check_emotion_map(emotions: Mapping[str, str], present: Sequence[str], where: str) -> None:
    """Raise `CorpusError` where a map of emotions names one that is not present, or a target not ours."""
    for theirs, ours in emotions.items():
        if theirs not in present:
            raise CorpusError(f"{where}: " + one_of("name in the map of emotions", theirs, present))
        if ours not in (*EMOTIONS, LEFT_OUT):
            raise CorpusError(f"{where}, map of emotions: " + one_of("emotion", ours, EMOTIONS) + ", or -")


def _relabel(
    corpus: Corpus,
    labels: str,
    emotions: Mapping[str, str],
    keep_left_out: bool = False,
    keep_unlabelled: bool = False,
    keep_voted: bool = False,
) -> Corpus:
    """Return the corpus of a reader after its map of emotions and then its label map.

    `keep_left_out` keeps utterances of emotions that `emotions` leaves out, `keep_unlabelled` those that have
    no emotion, and `keep_voted` those of them that have votes.
    """
    if keep_left_out:
        left_out = [name for name, ours in emotions.items() if ours == LEFT_OUT]
        corpus = replace(
            corpus,
            utterances=tuple(replace(u, emotion=None) if u.emotion in left_out else u for u in corpus),
        )
    corpus = corpus.relabel(LabelMap("declared", emotions), keep_unlabelled=True) if emotions else corpus
    if labels == "all":
        return corpus
    return corpus.relabel(get_label_map(labels), keep_unlabelled=keep_unlabelled, keep_voted=keep_voted)


@dataclass(frozen=True)
class CorpusSource:
    """The labelled utterances of `evaluate`: a manifest by its path, or a known corpus and its folder.

    The folder of a manifest is the root of its audio, as in `read_manifest`.

    Raises `ConfigError` for anything else, and `CorpusError` where the folder does not exist.
    """

    corpus: str
    folder: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # as in `read_manifest`
    emotions: Mapping[str, str] = field(default_factory=dict)
    scale: Scale | None = None  # as in `read_manifest`

    def __post_init__(self) -> None:
        is_table = Path(self.corpus).suffix in TABLE_SUFFIXES
        if self.corpus not in READERS and not is_table:
            raise ConfigError(
                one_of("corpus", self.corpus, READERS) + ", or a manifest: .csv, .tsv or .parquet"
            )
        if not is_table and self.folder is None:
            raise ConfigError(
                f"corpus '{self.corpus}' is read from a folder: emodistill evaluate MODEL {self.corpus} "
                "FOLDER"
            )
        if self.folder is not None and not self.folder.is_dir():
            raise CorpusError(
                f"{self.corpus}: no folder '{self.folder}'; expected the folder of the corpus, as its "
                "authors distribute it"
            )
        for option, is_given in (("--columns", self.columns), ("--scale", self.scale)):
            if not is_table and is_given:
                raise ConfigError(f"{option} is for manifests, and '{self.corpus}' is a known corpus")

    def read(
        self, labels: str | None, report: Callable[[str], None], *, keep_left_out: bool = False
    ) -> Corpus:
        """Read the utterances and apply a label map; "all" keeps those without an emotion.

        `report` gets a message where audio was found under another name, see `find_audio`.
        """
        if self.folder is not None and self.corpus in READERS:
            return read_corpus(self.corpus, self.folder, labels, self.emotions, keep_left_out=keep_left_out)
        corpus = read_manifest(
            Path(self.corpus),
            self.columns,
            None,
            self.emotions,
            self.folder,
            keep_left_out=keep_left_out,
            scale=self.scale,
        )
        corpus = find_audio(corpus, report)
        return corpus if labels in (None, "all") else corpus.relabel(get_label_map(labels))


def read_own_table(
    source: Path | Table,
    columns: Mapping[str, str],
    emotions: Mapping[str, str],
    labels: str | None,
    root: Path | None,
    report: Callable[[str], None],
    scale: Scale | None = None,
) -> Corpus:
    """Read a researcher's own table, look for its audio, and apply a label map.

    `source` is a file, or the table that a `TableReader` read; audio of it that is no file yet is written.
    Without `labels`, all emotions of the table stay, and utterances without an emotion, votes and dimensions
    are left out. A table without a column for the emotion keeps all utterances. The other arguments are
    those of `read_manifest`. `report` gets a message about where our columns come from, and how audio was
    found. Raises `CorpusError` as `read_manifest` does, and where no audio is found.
    """
    if isinstance(source, Path) and not source.is_file():
        raise CorpusError(f"no table '{source}'; expected a CSV, TSV or Parquet file")
    table = read_table(source) if isinstance(source, Path) else source
    for note in table.notes:
        report(note)
    corpus = read_rows(table, columns, table.name, emotions, root, scale=scale)
    layout = find_layout(table, columns)
    if not {"path", "transcript"} & layout.names.keys():
        raise CorpusError(missing_columns(table, ["path"], columns))
    report(str(layout))
    if labels != "all" and (labels is not None or "emotion" in layout.names):
        corpus = corpus.relabel(get_label_map(labels or "own"), keep_unlabelled=labels is None)
        corpus = _without_bare(corpus)
    write_audio(corpus, table, report)
    corpus = find_audio(corpus, report)
    with_audio = [utterance.path for utterance in corpus if utterance.path is not None]
    if not with_audio:
        report("no column of audio paths: the utterances have text alone (--columns path=… names one)")
    elif not any(audio.is_file() for audio in with_audio):
        start = table.path if table.path.is_dir() else "the folder of the table"
        raise CorpusError(
            f"no audio of '{table.path}' exists, such as '{with_audio[0]}'; relative paths start at {start}, "
            "or at the folder of --root"
        )
    return corpus


def _without_bare(corpus: Corpus) -> Corpus:
    """Return the corpus without the utterances that have no emotion, no votes and no dimension."""
    kept = tuple(item for item in corpus if item.emotion or item.votes or item.dimensions())
    if len(kept) == len(corpus):
        return corpus
    dropped = Counter(corpus.dropped) + Counter({NO_EMOTION: len(corpus) - len(kept)})
    return replace(corpus, utterances=kept, dropped=dict(dropped))


def find_audio(corpus: Corpus, report: Callable[[str], None]) -> Corpus:
    """Return the corpus with missing audio replaced by audio of almost the same path, where there is some.

    It is looked for with slashes in place of backslashes, and then in the same folder under the same name
    with another suffix, if only one file has it. `report` gets the count of each. Other paths stay as they
    are.
    """
    listings: dict[Path, dict[str, list[Path]]] = {}
    found: Counter[str] = Counter()

    def existing(path: Path) -> Path:
        if path.is_file():
            return path
        path = Path(str(path).replace("\\", "/"))
        if path.is_file():
            found["with slashes for backslashes"] += 1
            return path
        if path.parent not in listings:
            listings[path.parent] = _audio_by_stem(path.parent)
        matches = {file for stem in (path.name, path.stem) for file in listings[path.parent].get(stem, ())}
        matches = {file for file in matches if not file.is_symlink()}  # It may lead out of the folder.
        if len(matches) != 1:
            return path
        (match,) = matches
        found[f"under another suffix: {match.suffix} for {path.suffix or 'none'}"] += 1
        return match

    utterances = tuple(u if u.path is None else replace(u, path=existing(u.path)) for u in corpus)
    for how, count in found.items():
        report(f"{count} × audio found {how}")
    return replace(corpus, utterances=utterances)


def _audio_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return the audio files in a folder by stem."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for file in folder.glob("*") if folder.is_dir() else ():
        if file.suffix.lower() in (*SUFFIXES, *MEDIA_SUFFIXES):
            by_stem[file.stem].append(file)
    return by_stem


def open_corpus(
    config: CorpusConfig,
    report: Callable[[str], None],
    targets: Sequence[str] = ("emotion",),
    *,
    keep_voted: bool = False,
) -> Corpus:
    """Read the corpus of a recipe; its utterances all have readable audio (or none).

    Each utterance has one of the `targets` or more: an emotion, or a dimension. With dimensions alone, the
    utterances lose their emotions and votes; then `config.labels` and `config.emotions` only leave out
    utterances of other emotions.

    Args:
        config: the section of a recipe.
        report: gets one message for each utterance or group of utterances that is left out or merged.
        targets: what the models will predict, as `Recipe.targets`.
        keep_voted: keep utterances with listeners' votes alone.

    Raises:
        ConfigError: the recipe names no data, or both a folder and a manifest; or a dimension in `targets`
            that no utterance has.
        CorpusError: the data cannot be read, or an utterance has a dimension without a scale.
    """
    check_source(config)
    corpus = _read(config, report, targets, keep_voted)
    if any(name in DIMENSIONS for name in targets):
        check_dimensions(corpus, targets, config.manifest)
        corpus = with_a_target(corpus, targets, keep_voted)
    else:  # training needs an emotion for each utterance, or votes
        corpus = corpus.relabel(LABEL_MAPS["own"], keep_voted=keep_voted)
    if config.transcripts is not None:
        corpus = add_transcripts(corpus, Path(config.transcripts))
    if config.words is not None:
        corpus = add_words(corpus, Path(config.words))
    corpus, problems = drop_bad_audio(corpus)
    report_left_out(corpus, problems, report)
    return corpus


def open_further(config: CorpusConfig, report: Callable[[str], None]) -> tuple[Utterance, ...]:
    """Return the further speech of a recipe: transcribed utterances whose labels are not used.

    Their ids start with "further/". `report` gets one message for each utterance that is left out, such as
    one without a transcript. Raises `CorpusError` where the data cannot be read.
    """
    if config.further is None:
        return ()
    root = None if config.audio_root is None else Path(config.audio_root)
    corpus = read_manifest(Path(config.further), config.columns, "further", config.emotions, root)
    if config.further_words is not None:
        corpus = add_words(corpus, Path(config.further_words))
    corpus, problems = drop_bad_audio(corpus)
    report_left_out(corpus, problems, report)
    usable = [item for item in corpus if item.transcript and item.path is not None]
    if len(usable) < len(corpus):
        report(f"left out: {len(corpus) - len(usable)} further utterances without a transcript or audio")
    no_labels: dict[str, Any] = {"emotion": None, "votes": None, **dict.fromkeys(DIMENSIONS)}
    return tuple(replace(item, id=f"further/{item.id}", **no_labels) for item in usable)


def check_source(config: CorpusConfig) -> None:
    """Raise `ConfigError` where a recipe names no data, or two corpora, and `CorpusError` for no such file.

    It reads nothing.
    """
    if config.root is not None and config.manifest is not None:
        raise ConfigError(
            f"the recipe names two corpora, corpus.root = '{config.root}' and corpus.manifest = "
            f"'{config.manifest}', expected one: add --set corpus.manifest=none to read the folder, or "
            "--set corpus.root=none to read the manifest"
        )
    if config.manifest is not None:
        check_manifest(Path(config.manifest))
        return
    if _root(config) is None:
        raise ConfigError(
            f"the recipe names no data for '{config.name}': --set corpus.root=DIR for a known corpus "
            f"({', '.join(READERS)}), or --set corpus.manifest=utterances.csv"
        )
    for name in config.pool or (config.name,):
        if name not in READERS:
            raise CorpusError(one_of("corpus", name, READERS))
        if config.root is not None and not Path(config.root).is_dir():
            READERS[name].read(Path(config.root))  # raises, and says which folder the reader expects


def _root(config: CorpusConfig) -> Path | None:
    """The folder of the corpus: the one that the recipe names, or that of a packaged corpus."""
    if config.root is not None:
        return Path(config.root)
    return READERS[config.name].packaged if config.name in READERS and not config.pool else None


def _read(
    config: CorpusConfig, report: Callable[[str], None], targets: Sequence[str], keep_voted: bool
) -> Corpus:
    """Read the corpus. Where `targets` has dimensions, utterances without an emotion stay.

    Without emotion in `targets`, so do those whose emotion the default label map leaves out. With
    `keep_voted`, so do those that have votes.
    """
    keep_unlabelled = any(name in DIMENSIONS for name in targets)
    if config.manifest is not None:
        root = None if config.audio_root is None else Path(config.audio_root)
        corpus = read_manifest(
            Path(config.manifest), config.columns, config.name, config.emotions, root, scale=config.scale
        )
        corpus = find_audio(with_scale(corpus, config.scale, report), report)
        return _relabel(corpus, config.labels or "all", {}, False, keep_unlabelled, keep_voted)

    def relabelled(name: str, part: Corpus) -> Corpus:
        labels = config.labels or (READERS[name].default_labels if "emotion" in targets else "all")
        part = with_scale(part, config.scale, report)
        return _relabel(part, labels, config.emotions, False, keep_unlabelled, keep_voted)

    if config.pool and config.root is not None:
        folders = {name: _folder_in_pool(Path(config.root), name) for name in config.pool}
        read = [_read_folder(name, folder) for name, folder in folders.items()]
        present = LabelSet.from_emotions(name for part in read for name in part.labels)
        _check_emotion_map(config.emotions, present.names, f"corpus '{config.name}'")
        parts = [relabelled(name, part) for name, part in zip(config.pool, read, strict=True)]
        return pool_corpora(config.name, parts)
    root = _root(config)
    assert root is not None, "checked by `check_source`"
    corpus = _read_folder(config.name, root)
    _check_emotion_map(config.emotions, corpus.labels.names, f"corpus '{config.name}'")
    return relabelled(config.name, corpus)


def _folder_in_pool(root: Path, name: str) -> Path:
    """Return the folder of a pooled corpus: `crema-d` below `root`, or `crema_d` if only that exists."""
    folder, with_underscores = root / name, root / name.replace("-", "_")
    return with_underscores if with_underscores.is_dir() and not folder.is_dir() else folder


def pool_corpora(name: str, parts: Sequence[Corpus]) -> Corpus:
    """Return several corpora as one.

    Ids, speakers and sessions get the name of their corpus as a prefix: speaker `ravdess/7` is not `ased/7`.
    """
    utterances = tuple(
        replace(
            utterance,
            id=f"{part.name}/{utterance.id}",
            speaker=f"{part.name}/{utterance.speaker}",
            session=utterance.session and f"{part.name}/{utterance.session}",
            corpus=part.name,
        )
        for part in parts
        for utterance in part
    )
    dropped = {f"{part.name}: {reason}": count for part in parts for reason, count in part.dropped.items()}
    merged = {f"{part.name}: {change}": count for part in parts for change, count in part.merged.items()}
    return Corpus(name, utterances, dropped, merged)


def report_left_out(corpus: Corpus, problems: Sequence[str], report: Callable[[str], None]) -> None:
    """Report the first utterances with bad audio, then how many were merged and dropped, and why."""
    for problem in problems[:_NUM_LISTED]:
        report(f"left out: {problem}")
    if len(problems) > _NUM_LISTED:
        report(f"left out: {len(problems) - _NUM_LISTED} more like these")
    for action, counts in (("merged", corpus.merged), ("dropped", corpus.dropped)):
        for reason, count in counts.items():
            report(f"{action}: {count} × {reason}")


def add_transcripts(corpus: Corpus, path: Path) -> Corpus:
    """Return the corpus with transcripts from a CSV that has the columns id, transcript and source.

    Raises `CorpusError` for a missing file or column, and for an id that the corpus lacks.
    """
    if not path.is_file():
        raise CorpusError(f"no transcripts '{path}'; expected a CSV with columns id, transcript, source")
    rows = table_rows(path, "transcripts", ("id", "transcript", "source"))
    transcripts = {row["id"]: (row["transcript"].strip() or None, row["source"]) for _, row in rows}
    unknown = sorted(transcripts.keys() - {utterance.id for utterance in corpus})
    if unknown:
        raise CorpusError(
            f"'{path}' has {len(unknown)} ids that '{corpus.name}' lacks, such as '{unknown[0]}'"
        )
    utterances = []
    for utterance in corpus:
        if utterance.id in transcripts:
            transcript, source = transcripts[utterance.id]
            utterance = replace(utterance, transcript=transcript, transcript_source=source)
        utterances.append(utterance)
    return replace(corpus, utterances=tuple(utterances))
