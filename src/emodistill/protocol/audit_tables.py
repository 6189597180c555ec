"""The findings of an audit as tables on the terminal or as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.config import ProtocolConfig
from emodistill.corpora import Corpus
from emodistill.protocol.audit import RARE, Audit, class_warnings, count_classes, list_notes, uneven_tests
from emodistill.protocol.dimensions import DimensionCounts, count_range, dimension_warnings
from emodistill.protocol.folds import SPLITS, Protocol
from emodistill.protocol.levels import MAX_DC, CorpusLevels, level_warnings, levels_by_corpus

MAX_FOLDS = 12  # more folds are shown as the range over folds
_NUM_DUPLICATES = 10  # pairs of identical recordings that are shown


def audit_report(corpus: Corpus, protocol: Protocol, audit: Audit, config: ProtocolConfig) -> dict[str, Any]:
    """Return all findings of an audit, in the form of `emodistill corpus audit --format json`.

    `folds` has the number of utterances of each split (`train`, `dev`, `test`), by emotion in `emotions`, and
    the share of test transcripts that are also in training. `dimensions` of a fold has the number, the mean
    and the range of each dimension in each split, from 0 to 1. `levels` has those of each pooled corpus.
    """
    levels = levels_by_corpus(corpus, audit.levels)
    counts = count_classes(corpus, protocol)
    return {
        "corpus": corpus.name,
        "protocol": protocol.description,
        "hash": protocol.hash,
        "allowed": list(protocol.allowed),
        "num_utterances": len(corpus),
        "num_speakers": len(corpus.speakers),
        "emotions": list(corpus.labels),
        "folds": [
            {
                "name": fold.name,
                **{split: len(fold.split(split)) for split in SPLITS},
                "emotions": {
                    split: {name: counts[fold.name][split][name] for name in corpus.labels}
                    for split in SPLITS
                },
                "shared_transcripts": audit.shared_transcripts.get(fold.name),
                "dimensions": {
                    split: {name: asdict(item) for name, item in items.items()}
                    for split, items in audit.dimensions[fold.name].items()
                },
            }
            for fold in protocol.folds
        ],
        "levels": {name: asdict(item) for name, item in levels.items()},
        "identical_recordings": [list(pair) for pair in audit.duplicates],
        "warnings": [
            *class_warnings(corpus.utterances, protocol),
            *dimension_warnings(audit.dimensions),
            *uneven_tests(protocol),
            *level_warnings(levels),
        ],
        "notes": list(list_notes(config)),
        "leaks": protocol.leaks,
    }


def show_audit(report: Mapping[str, Any], format: str, to: Console) -> None:
    """Print the findings of `audit_report`; `format` is table or json."""
    if format == "json":
        to.file.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        return
    to.print(_fold_table(report))
    for emotions in _fitting(report, to.width):
        to.print(_emotion_table(report, emotions))
    for name in report["folds"][0]["dimensions"][SPLITS[0]]:
        to.print(_dimension_table(report, name))
    if report["levels"]:
        to.print(_level_table(report["levels"]))
    pairs = report["identical_recordings"]
    for one, two in pairs[:_NUM_DUPLICATES]:
        to.print(f"identical recordings, always in one split: {one} = {two}", markup=False, highlight=False)
    if len(pairs) > _NUM_DUPLICATES:
        to.print(f"identical recordings: {len(pairs) - _NUM_DUPLICATES} more pairs; --format json lists them")
    for kind, style in (("warnings", "yellow"), ("notes", None)):
        for text in report[kind]:
            to.print(f"{kind[:-1]}: {text}", style=style, markup=False, highlight=False)


def _table(*columns: str, title: str) -> Table:
    """A table that is narrow enough for 80 columns; the first column is text."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, title=escape(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if index else "left")
    return table


def _fold_table(report: Mapping[str, Any]) -> Table:
    table = _table(
        "fold", *SPLITS, "test transcripts also in training",
        title=f"{report['corpus']}, {report['protocol']}, hash {report['hash']}: {report['leaks']}",
    )  # fmt: skip
    for fold in report["folds"]:
        share = fold["shared_transcripts"]
        cell = "–" if share is None else f"{100 * share:.1f} %"
        table.add_row(escape(fold["name"]), *(str(fold[split]) for split in SPLITS), cell)
    return table


def _fitting(report: Mapping[str, Any], width: int) -> list[list[str]]:
    """Return the emotions in groups, whose tables fit into a terminal of `width` columns."""
    names = [len(fold["name"]) for fold in report["folds"]]
    digits = len(str(report["num_utterances"])) * (2 if len(names) > MAX_FOLDS else 1) + 1
    around = max(4, *names) + 1 + len("train") + 1 + digits + 2  # the columns fold, split and all, and edges
    groups: list[list[str]] = []
    used = width
    for emotion in report["emotions"]:
        needed = max(len(emotion), digits) + 1
        if used + needed > width:
            groups.append([])
            used = around
        groups[-1].append(emotion)
        used += needed
    return groups


def _emotion_table(report: Mapping[str, Any], emotions: Sequence[str]) -> Table:
    """The utterances of each emotion by fold and split, or by split where there are many folds."""
    folds = report["folds"]
    table = _table("fold", "split", *emotions, "all", title="utterances by emotion")
    table.columns[1].justify = "left"
    if len(folds) > MAX_FOLDS:
        for split in SPLITS:
            by_emotion = [[fold["emotions"][split][name] for fold in folds] for name in emotions]
            totals = [fold[split] for fold in folds]
            table.add_row(
                "all" if split == SPLITS[0] else "", split, *map(count_range, by_emotion), count_range(totals)
            )
        table.caption = f"fewest to most over {len(folds)} folds; --format json has each"
        table.caption_justify = "left"
        return table
    for fold in folds:
        for split in SPLITS:
            counts = fold["emotions"][split]
            cells = [_count(counts[name], split) for name in emotions]
            name = escape(fold["name"]) if split == SPLITS[0] else ""
            table.add_row(name, split, *cells, str(fold[split]), end_section=split == SPLITS[-1])
    return table


def _dimension_table(report: Mapping[str, Any], name: str) -> Table:
    """The labels of one dimension by fold and split, or by split where there are many folds."""
    folds = report["folds"]
    table = _table("fold", "split", "utterances", "mean", "lowest", "highest", title=f"{name}, from 0 to 1")
    table.columns[1].justify = "left"
    if len(folds) > MAX_FOLDS:
        for split in SPLITS:
            items = [DimensionCounts(**fold["dimensions"][split][name]) for fold in folds]
            known = [item for item in items if item.num_utterances]
            values = zip(*((item.mean, item.lowest, item.highest) for item in known), strict=True)
            cells = [f"{min(column):.3f}–{max(column):.3f}" for column in values] or ["–"] * 3
            numbers = count_range([item.num_utterances for item in items])
            table.add_row("all" if split == SPLITS[0] else "", split, numbers, *cells)
        table.caption = f"fewest to most, lowest to highest over {len(folds)} folds; --format json has each"
        table.caption_justify = "left"
        return table
    for fold in folds:
        for split in SPLITS:
            item = DimensionCounts(**fold["dimensions"][split][name])
            cells = ["–" if v is None else f"{v:.3f}" for v in (item.mean, item.lowest, item.highest)]
            shown = escape(fold["name"]) if split == SPLITS[0] else ""
            table.add_row(shown, split, str(item.num_utterances), *cells, end_section=split == SPLITS[-1])
    return table


def _count(number: int, split: str) -> str:
    """Return a count; absent emotions are red, and rare ones in training are yellow."""
    if not number:
        return "[bold red]0[/]"
    return f"[yellow]{number}[/]" if split == "train" and number < RARE else str(number)


def _share(number: int, of: int) -> str:
    return f"{number} ({100 * number / of:.0f} %)" if number else "0"


def _level_table(levels: Mapping[str, Any]) -> Table:
    table = _table(
        "corpus", "recordings", "RMS dBFS", "5 % … 95 %", "DC, 95 %", "DC offsets", "clipped",
        title="levels of recordings",
    )  # fmt: skip
    for name, values in levels.items():
        item = CorpusLevels(**values)
        table.add_row(
            escape(name), str(item.num_recordings), f"{item.rms_dbfs_median:.1f}",
            f"{item.rms_dbfs_5:.1f} … {item.rms_dbfs_95:.1f}", f"{100 * item.dc_95:.1f} %",
            *(_share(len(ids), item.num_recordings) for ids in (item.dc_offsets, item.clipped)),
        )  # fmt: skip
    table.caption = (
        f"RMS: the median. DC: the mean as a share of RMS; above {100 * MAX_DC:.0f} % it is a DC offset."
    )
    table.caption_justify = "left"
    return table
