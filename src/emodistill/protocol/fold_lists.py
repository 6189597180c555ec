"""Lists of folds from files: a CSV with the columns id, fold and split, or EmoBox's folder of a corpus."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from emodistill.corpora import Corpus
from emodistill.corpora.base import natural_sort_key
from emodistill.corpora.readers.emobox import published_folds
from emodistill.corpora.tables import table_rows
from emodistill.errors import ConfigError, one_of

LEFT_OUT = "-"  # as fold or split of an utterance: no fold, or no split of this fold, has it
_SPLITS = ("train", "dev", "test")
_FOLD_NAME = re.compile(r"\w[\w.-]*")  # a fold's name is part of the name of its folder
_NUM_EXAMPLES = 3  # ids that a message names

Splits = Mapping[str, Collection[str]]  # split -> ids; only the splits that the list gives


@dataclass(frozen=True)
class FoldLists:
    """The folds of a file, all with ids of the corpus."""

    folds: Mapping[str, Splits]  # by name of the fold; each has "test"
    notes: tuple[str, ...] = ()  # how the list differs from the corpus


def read_fold_list(path: Path, corpus: Corpus) -> FoldLists:
    """Read a CSV or TSV of folds; the delimiter is found in its first line.

    Columns `id` and `fold`: the utterance is in the test split of this fold. Columns `id`, `fold` and
    `split`: the utterance is in this split (train, dev or test) of this fold; the file has a row for each
    utterance and fold. Columns `id` and `split`: there is one fold. `-` as fold or split leaves an utterance
    out. Folds are sorted by name, and numbers in names by value.

    Raises `ConfigError` for utterances of the corpus that the file lacks, for ids that the corpus lacks, and
    for rows that contradict each other.
    """
    split_of = _read_rows(path)
    listed = {name for rows in split_of.values() for name in rows}
    used = {name for rows in split_of.values() for name, split in rows.items() if split != LEFT_OUT}
    notes = _compare(path, listed, used, corpus)
    ids = {utterance.id for utterance in corpus}
    lists: dict[str, Splits] = {}
    for fold in sorted(split_of.keys() - {LEFT_OUT}, key=natural_sort_key):
        rows = split_of[fold]
        has_splits = any(split != "test" for split in rows.values())
        if has_splits:
            missing = [name for name in ids if name not in rows and name not in split_of.get(LEFT_OUT, {})]
            _refuse(
                missing,
                f"'{path}', fold {fold}: {len(missing)} utterances have no split",
                "add a row for each, with split - for those that this fold leaves out",
            )
        splits = {
            split: [name for name, chosen in rows.items() if chosen == split and name in ids]
            for split in _SPLITS
        }
        needed = ("train", "test") if has_splits else ("test",)
        empty = [split for split in needed if not splits[split]]
        if empty:
            raise ConfigError(f"'{path}', fold {fold}: no utterance of the corpus is in {' or '.join(empty)}")
        lists[fold] = {split: members for split, members in splits.items() if members}
    if not any("train" in splits for splits in lists.values()) and len(lists) < 2:
        raise ConfigError(
            f"'{path}' has {len(lists)} folds, which are test splits; without a column split it needs at "
            "least 2, so that the others can train"
        )
    return FoldLists(lists, notes)


def _read_rows(path: Path) -> dict[str, dict[str, str]]:
    """Return fold -> id -> split of a file of folds. The fold `LEFT_OUT` has the ids of no fold."""
    if not path.is_file():
        raise ConfigError(
            f"protocol.folds_from: no file '{path}'; expected a CSV with the columns id and fold"
        )
    split_of: dict[str, dict[str, str]] = {}
    first_row: dict[tuple[str, str], int] = {}
    for number, row in table_rows(path, "protocol.folds_from", ["id"], None):
        cells = {column.strip(): cell.strip() for column, cell in row.items()}
        where = f"'{path}', row {number}"
        if "fold" not in cells and "split" not in cells:
            raise ConfigError(f"'{path}' needs a column fold, split or both; it has {list(cells)}")
        name, fold = cells["id"], cells.get("fold", "1")
        if not name or not fold:
            raise ConfigError(f"{where}: expected an id and a fold, got {cells}; - as fold leaves an id out")
        if fold != LEFT_OUT and not _FOLD_NAME.fullmatch(fold):
            raise ConfigError(
                f"{where}: bad fold '{fold}', expected letters, digits, '_', '.' or '-': it names a folder"
            )
        split = cells.get("split", "test") if fold != LEFT_OUT else LEFT_OUT
        if split not in (*_SPLITS, LEFT_OUT):
            raise ConfigError(f"{where}: {one_of('split', split, [*_SPLITS, LEFT_OUT])}")
        # Without splits, an utterance is tested in one fold, so a second row is a contradiction.
        key = (name, fold if "split" in cells else "")
        if key in first_row:
            raise ConfigError(f"{where}: '{name}' is also in row {first_row[key]}; expected one row for it")
        first_row[key] = number
        split_of.setdefault(fold, {})[name] = split
    if not split_of:
        raise ConfigError(f"'{path}' has no rows; expected one for each utterance")
    return split_of


def _compare(path: Path, listed: Collection[str], used: Collection[str], corpus: Corpus) -> tuple[str, ...]:
    """Refuse a list that does not fit the corpus; return a note on listed utterances that it dropped.

    `used` are the listed utterances that some split has. The others may be missing from the corpus.
    """
    ids = {utterance.id for utterance in corpus}
    unknown = [name for name in used if name not in ids]
    num_dropped = sum(corpus.dropped.values())
    if len(unknown) > num_dropped:
        _refuse(
            unknown,
            f"'{path}' names ids that corpus '{corpus.name}' lacks ({len(unknown)} of {len(used)})",
            f"the corpus has {len(ids)} utterances, such as '{corpus.utterances[0].id}'"
            + (f", and {num_dropped} were dropped" if num_dropped else "")
            + ". Correct these ids, remove their rows, or give them - as fold",
        )
    missing = [utterance.id for utterance in corpus if utterance.id not in listed]
    _refuse(
        missing,
        f"'{path}' lacks {len(missing)} of the {len(ids)} utterances of corpus '{corpus.name}'",
        "add a row for each, with fold - for those that no fold uses",
    )
    return (f"{len(unknown)} listed utterances were dropped from the corpus",) if unknown else ()


def _refuse(names: Collection[str], problem: str, advice: str) -> None:
    if names:
        more = ", …" if len(names) > _NUM_EXAMPLES else ""
        examples = ", ".join(f"'{name}'" for name in sorted(names)[:_NUM_EXAMPLES])
        raise ConfigError(f"{problem}: {examples}{more}; {advice}")


def read_emobox_folds(folder: Path, corpus: Corpus) -> FoldLists:
    """Read EmoBox's published folds of a corpus as they are.

    `folder` is `data/CORPUS` of EmoBox, or one `fold_N` in it. The corpus may be read from EmoBox's files or
    by its own reader: EmoBox's key is the id of that reader behind the name of the corpus and a hyphen.
    Notes count the listed utterances that the corpus lacks, and those that no fold has.

    Raises `ConfigError` where the folder has no folds, or the corpus none of their utterances.
    """
    ids = {utterance.id for utterance in corpus}
    folds: dict[str, Splits] = {}
    unknown: set[str] = set()
    for fold, lists in published_folds(folder).items():
        splits: dict[str, list[str]] = {}
        for split, names in lists.items():
            found = [next((name for name in candidates if name in ids), None) for candidates in names]
            unknown.update(names[0] for names, name in zip(names, found, strict=True) if name is None)
            splits[split] = [name for name in found if name is not None]
        empty = [split for split in ("train", "test") if not splits.get(split)]
        if empty:
            raise ConfigError(
                f"'{folder}', fold {fold}: corpus '{corpus.name}' has no utterance of {' or '.join(empty)}; "
                f"EmoBox lists '{min(unknown, default='nothing')}', and the corpus has "
                f"'{corpus.utterances[0].id}'"
            )
        folds[fold] = {split: members for split, members in splits.items() if members}
    used = {name for splits in folds.values() for members in splits.values() for name in members}
    notes = [f"the corpus lacks {len(unknown)} of EmoBox's utterances"] if unknown else []
    if len(ids) > len(used):
        notes.append(f"no fold has {len(ids) - len(used)} of the corpus's {len(ids)} utterances")
    return FoldLists(folds, tuple(notes))
