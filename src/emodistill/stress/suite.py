"""Runs the suite: changes recordings, asks the model, and makes cells. A killed run continues.

OUT/
  settings.json            what decides the answers; a run with other settings is refused
  answers/CORPUS/NAME.json the answers to the recordings of a corpus under one change
  stress.json stress.html junit.xml
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.console import warn
from emodistill.corpora import Corpus
from emodistill.errors import ConfigError
from emodistill.files import atomic_write
from emodistill.stress.answers import AnswerFolder, ChangeAnswers, Example, Options, make_example
from emodistill.stress.base import Answers, Cell, Change, Marks, Material, read_marks
from emodistill.stress.cells import Rows, change_cell
from emodistill.stress.data import Background, Drawn, babble_speech, draw
from emodistill.stress.fairness import fairness_cells
from emodistill.training.evaluated_models import WaveformModel
from emodistill.version import __version__

SETTINGS = "settings.json"
ANSWERS = "answers"
RESULTS = ("stress.json", "stress.html", "junit.xml")
FORMAT = 1  # of the files of answers and of stress.json


@dataclass(frozen=True)
class CorpusFacts:
    """One corpus in the result."""

    name: str
    utterances: int  # that were drawn
    of_utterances: int
    speakers: int
    labelled: int  # utterances with a label that the model can answer
    no_answer: int  # utterances without an answer, unchanged
    seen: bool  # whether some speakers were in training
    ua: float | None = None  # unchanged
    ua_with_voice: float | None = None


@dataclass(frozen=True)
class Result:
    """What a run of the suite found."""

    model: str
    kind: str
    sha256: str | None
    options: Options
    corpora: tuple[CorpusFacts, ...]
    cells: tuple[Cell, ...]
    required: Mapping[str, float] = field(default_factory=dict)  # group -> the share of cells that must pass
    example: Example | None = field(default=None, compare=False)

    def checked(self, group: str) -> list[Cell]:
        """The cells of a group that have marks."""
        return [cell for cell in self.cells if cell.group == group and cell.checks]

    @property
    def groups(self) -> list[str]:
        """The groups that have cells with marks, in the order of the marks."""
        return [group for group in self.required if self.checked(group)]

    def share(self, group: str) -> float:
        """The share of the cells of a group that pass."""
        return float(np.mean([bool(cell.passed) for cell in self.checked(group)]))

    def group_passes(self, group: str) -> bool:
        """Whether enough cells of a group pass."""
        return self.share(group) >= self.required[group] - 1e-9

    @property
    def not_run(self) -> list[Cell]:
        """The cells of changes that were not checked, for example because there is no music to mix in."""
        return [cell for cell in self.cells if cell.group != "fairness" and not cell.checks]

    @property
    def passed(self) -> bool:
        """Whether something was checked, every change was run, and enough cells of each group pass."""
        return bool(self.groups) and not self.not_run and all(map(self.group_passes, self.groups))


# Long: the parameters are the options of the command.
def run_suite(
    model: WaveformModel,
    name: str,
    sha256: str | None,
    corpora: Sequence[Corpus],
    changes: Sequence[Change],
    with_fairness: bool,
    out: Path,
    options: Options,
    jobs: int = 1,
    background: Background | None = None,
    force: bool = False,
) -> Result:
    """Run changes on corpora with a model, and return the result. Answers that `out` holds are kept.

    Args:
        name: of the model; `sha256` is that of its weights.
        with_fairness: whether the tests of fairness run too.
        jobs: threads. The result does not depend on it.
        background: what changes mix in besides speech; None: changes that need it are left out.
        force: delete the results and answers that `out` holds.

    Raises `ConfigError` where `out` holds answers of other settings, and `LeakError` for seen speakers.
    """
    drawn = [draw(corpus, model, options.utterances, options.seed, options.seen) for corpus in corpora]
    for item in drawn:
        _warn_of_other_labels(item, options)
    prepare_folder(out, _settings(model, name, sha256, drawn, options), force)
    background = background or Background()
    material = Material(babble_speech(drawn, options.seed), background.music, background.ambience)
    run = AnswerFolder(model, options, material, background, out / ANSWERS, jobs)
    marks = read_marks()
    total = run.count([(item, change) for item in drawn for change in (None, *changes)])
    cells: list[Cell] = []
    facts: list[CorpusFacts] = []
    answers: list[Answers] = []
    with run.progress(total):
        for item in drawn:
            clean = run.answers(item, None)
            assert clean.left_out is None
            facts.append(_facts(item, clean, options))
            answers += _clean_answers(item, clean, options)
            for change in changes:
                changed = run.answers(item, change)
                cells += _cells(item, change, marks[change.group][change.name], clean, changed, options)
    if with_fairness:
        cells += fairness_cells(answers, options.seed)
    example = make_example(drawn[0], changes, options.seed, material, background)
    return Result(name, model.kind, sha256, options, tuple(facts), tuple(cells), marks["required"], example)


def _warn_of_other_labels(drawn: Drawn, options: Options) -> None:
    answers = {name for name in options.emotion_of_name if name is not None}
    labels = {item.emotion for item in drawn.utterances if item.emotion is not None}
    if answers and labels and not answers & labels:
        warn(
            f"no label of '{drawn.corpus}' ({', '.join(sorted(labels))}) is an answer of the model "
            f"({', '.join(sorted(answers))}), so neither accuracy nor fairness is checked: see --map and "
            "--map-emotions"
        )


# --- cells ----------------------------------------------------------------------------------------


def _cells(
    drawn: Drawn, change: Change, marks: Marks, clean: ChangeAnswers, changed: ChangeAnswers, options: Options
) -> list[Cell]:
    """The cells of a change on a corpus: without a voice, and with one where the model has voices."""
    truth = [item.emotion for item in drawn.utterances]
    emotions = [name for name in options.emotion_of_name if name is not None]
    cells = []
    for voice in (False, True) if clean.voiced is not None else (False,):
        if changed.left_out is not None:
            cells.append(
                Cell(
                    change.group, change.name, drawn.corpus, voice, 0, (), marks.source, note=changed.left_out
                )
            )
            continue
        before, after = (item.voiced if voice else item.plain for item in (clean, changed))
        assert before is not None
        assert after is not None
        cells.append(change_cell(change, marks, drawn.corpus, voice, (before, after), truth, emotions))
    return cells


def _facts(drawn: Drawn, clean: ChangeAnswers, options: Options) -> CorpusFacts:
    from emodistill.evaluation.metrics import unweighted_accuracy

    truth = [item.emotion for item in drawn.utterances]
    names = [name for name in dict.fromkeys(options.emotion_of_name) if name is not None]
    rows = [place for place, name in enumerate(truth) if name in names]

    def ua(answers: Rows | None) -> float | None:
        if answers is None or not rows:
            return None
        labels = [names.index(str(truth[place])) for place in rows]
        predicted = [names.index(name) if (name := answers[place].emotion) else -1 for place in rows]
        return unweighted_accuracy(labels, predicted)

    return CorpusFacts(
        drawn.corpus, len(drawn.utterances), drawn.num_utterances, drawn.num_speakers, len(rows),
        sum(row.is_empty for row in clean.plain), drawn.seen, ua(clean.plain), ua(clean.voiced),
    )  # fmt: skip


def _clean_answers(drawn: Drawn, clean: ChangeAnswers, options: Options) -> list[Answers]:
    emotions = tuple(dict.fromkeys(name for name in options.emotion_of_name if name is not None))
    return [
        Answers(
            drawn.corpus, voice, drawn.utterances, tuple(row.emotion for row in rows), emotions,
            drawn.for_pitch,
        )
        for voice, rows in ((False, clean.plain), (True, clean.voiced))
        if rows is not None
    ]  # fmt: skip


# --- the folder -----------------------------------------------------------------------------------


def _settings(
    model: WaveformModel, name: str, sha256: str | None, drawn: Sequence[Drawn], options: Options
) -> dict[str, Any]:
    """What decides the answers."""
    corpora = {}
    for item in drawn:
        ids = "\0".join(f"{row.id}\0{row.path}\0{row.start_s}\0{row.end_s}" for row in item.utterances)
        corpora[item.corpus] = sha256_of(ids.encode(errors="surrogateescape")).hexdigest()
    return {
        "format": FORMAT,
        "version": __version__,
        "model": sha256 or name,
        "names": list(model.names or model.dimensions),
        "emotion_of_name": list(options.emotion_of_name),
        "utterances": options.utterances,
        "seed": options.seed,
        "corpora": corpora,
    }


def prepare_folder(out: Path, settings: Mapping[str, Any], force: bool) -> None:
    """Write the settings, or check those of an earlier run. Raises `ConfigError` where they differ."""
    path = out / SETTINGS
    if force:  # The results go first, so that none of them ever stands beside the answers of another run.
        for name in (*RESULTS, SETTINGS):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / ANSWERS, ignore_errors=True)
    if path.is_file():
        try:
            recorded = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"'{path}' cannot be read ({error}): begin anew with --force") from error
        for name, value in settings.items():
            if recorded.get(name) != value:
                raise ConfigError(
                    f"'{out}' holds answers of another run: {name} is {recorded.get(name)!r} there and "
                    f"{value!r} here; choose another folder with --out, or begin anew with --force"
                )
        return
    if (out / ANSWERS).exists():
        raise ConfigError(f"'{out / ANSWERS}' has no {SETTINGS} beside it: begin anew with --force")
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(settings, indent=1), encoding="utf-8")
