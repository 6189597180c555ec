"""The answers of a model to the recordings of a corpus under a change, computed once and kept in a folder."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.audio.waveform import SAMPLE_RATE, Waveform, from_samples
from emodistill.config import stable_seed
from emodistill.console import console, progress, say
from emodistill.corpora import Utterance
from emodistill.errors import AudioError, ConfigError
from emodistill.evaluation.known import DRAWN, KnownTask, Setting, SpeakerStatistics, predict_known
from emodistill.files import atomic_write
from emodistill.inference.thread_map import map_in_order
from emodistill.stress.base import Change, Material, Recording
from emodistill.stress.cells import AnswerRow, Rows
from emodistill.stress.data import Background, Drawn, Waveforms, load_or_none, speaker_of
from emodistill.training.evaluated_models import NO_ANSWER, WaveformAnswer, WaveformModel, voice_model
from emodistill.training.evaluation_folder import SeenRule

CLEAN = "clean"  # the name of no change
EXAMPLE_S = 2.5  # about this long is the utterance to listen to
KNOWN = 10  # at most so many other utterances of the speaker make a voice


@dataclass(frozen=True)
class Options:
    """What decides the answers, except for the model and the corpora."""

    utterances: int = 300  # of each corpus, at most; 0: all
    seed: int = 0
    seen: SeenRule = "refuse"
    emotion_of_name: tuple[str | None, ...] = ()  # of each of the model's names; None: left out


@dataclass(frozen=True)
class ChangeAnswers:
    """The answers to the drawn recordings of a corpus under one change, in their order."""

    plain: Rows = ()
    voiced: Rows | None = None  # with voices; None: the model has none
    left_out: str | None = None  # why the change could not be applied

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""

        def rows(answers: Rows | None) -> list[Any] | None:
            return None if answers is None else [row.emotion or row.dimensions for row in answers]

        return {"plain": rows(self.plain), "voiced": rows(self.voiced)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ChangeAnswers":
        """The answers that `to_json` returned."""

        def row(value: Any) -> AnswerRow:
            if value is None or isinstance(value, str):
                return AnswerRow(value)
            return AnswerRow(None, tuple(value))

        voiced = None if data["voiced"] is None else [row(value) for value in data["voiced"]]
        return cls([row(value) for value in data["plain"]], voiced)


class AnswerFolder:
    """A folder of answers: it computes them, or reads those that an earlier run left."""

    def __init__(
        self,
        model: WaveformModel,
        options: Options,
        material: Material,
        background: Background,
        folder: Path,
        jobs: int,
    ) -> None:
        self.model, self.options, self.material, self.jobs = model, options, material, jobs
        self.background, self.folder = background, folder
        self._mixed_in = {use: background.sha256(use) for use in (None, "speech", "music", "ambience")}
        self._advance: Callable[[], None] = lambda: None
        self._waveforms: tuple[str, Waveforms] = ("", Waveforms())
        emotions = options.emotion_of_name
        self.emotions = tuple(dict.fromkeys(name for name in emotions if name is not None))
        # 1 where a name stands for an emotion, (names, emotions).
        self._of_name = np.array(
            [[name == other for other in self.emotions] for name in emotions], dtype=float
        )

    def path(self, drawn: Drawn, change: Change | None) -> Path:
        return self.folder / drawn.corpus / f"{CLEAN if change is None else change.name}.json"

    def count(self, work: Sequence[tuple[Drawn, Change | None]]) -> int:
        """How many recordings have no answer yet."""
        return sum(len(item.utterances) for item, change in work if not self.path(item, change).is_file())

    def progress(self, total: int) -> Any:
        """A progress bar over `total` recordings, or, without a terminal, one line with an estimate."""
        bar, task = progress("stress", total)
        start, num_done = time.monotonic(), 0

        def advance() -> None:
            nonlocal num_done
            bar.advance(task)
            num_done += 1
            if num_done == 50 and total > 500 and not console.is_terminal:
                minutes = (time.monotonic() - start) / num_done * total / 60
                say(f"{total} recordings, about {max(1, round(minutes))} min")

        self._advance = advance
        return bar

    def answers(self, drawn: Drawn, change: Change | None) -> ChangeAnswers:
        """The answers to the recordings of a corpus under a change; None: unchanged."""
        path = self.path(drawn, change)
        mixed_in = None if change is None else self._mixed_in[change.needs]
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["mixed_in"] != mixed_in:
                assert change is not None
                raise ConfigError(
                    f"'{path}' holds answers with other {change.needs} than this run: choose another "
                    "folder with --out, or begin anew with --force"
                )
            return ChangeAnswers.from_json(kept)
        try:
            found = self._compute(drawn, change)
        except CannotApply as error:  # Not kept: the next run may have what is missing.
            return ChangeAnswers(left_out=str(error))
        with atomic_write(path) as partial:
            partial.write_text(json.dumps({"mixed_in": mixed_in, **found.to_json()}), encoding="utf-8")
        return found

    def _compute(self, drawn: Drawn, change: Change | None) -> ChangeAnswers:
        if self._waveforms[0] != drawn.corpus:
            self._waveforms = drawn.corpus, Waveforms()
        waveforms = self._waveforms[1]
        if change is not None and (missing := why_not(change, self.material, self.background)):
            raise CannotApply(missing)

        def answer(utterance: Utterance) -> WaveformAnswer:
            try:
                waveform = waveforms.load(utterance)
                if change is not None:
                    waveform = changed_waveform(
                        waveform, drawn, utterance, change, self.options.seed, self.material
                    )
                return _finite(self.model.answer(waveform))
            except AudioError:  # such as a file that breaks off, or too little audio
                return NO_ANSWER

        found = []
        for item in map_in_order(answer, drawn.utterances, self.jobs):
            found.append(item)
            self._advance()
        probabilities = [
            item.probabilities @ self._of_name if len(item.probabilities) else None for item in found
        ]
        plain = [self._row(values, item) for values, item in zip(probabilities, found, strict=True)]
        if not (self.model.has_voices and self.emotions):
            return ChangeAnswers(plain)
        labels = self._with_voices(drawn, found, probabilities)
        voiced = [
            AnswerRow(self.emotions[label]) if values is not None else AnswerRow()
            for values, label in zip(probabilities, labels, strict=True)
        ]
        return ChangeAnswers(plain, voiced)

    def _row(self, probabilities: Any, answer: WaveformAnswer) -> AnswerRow:
        if probabilities is not None:
            return AnswerRow(self.emotions[int(probabilities.argmax())])
        if len(answer.dimensions) and not self.emotions:
            return AnswerRow(None, tuple(round(float(value), 6) for value in answer.dimensions))
        return AnswerRow()

    def _with_voices(
        self, drawn: Drawn, found: Sequence[WaveformAnswer], probabilities: Sequence[Any]
    ) -> Any:
        """Labels (utterances,) where up to `KNOWN` other utterances of the speaker make a voice.

        These have the same change. Where no other has speech, the answer is the plain one.
        """
        statistics = SpeakerStatistics.join([(item.statistics, item.speech_s) for item in found])
        uniform = np.full(len(self.emotions), 1 / len(self.emotions))
        plain = np.array([uniform if values is None else values for values in probabilities])
        if not len(statistics.windows):
            return plain.argmax(axis=1)
        task = KnownTask(
            [item.id for item in drawn.utterances], [speaker_of(drawn, item) for item in drawn.utterances],
            np.arange(len(found)), plain, statistics, self._of_name, seed=self.options.seed,
        )  # fmt: skip
        result = predict_known(task, voice_model(self.model).head, (KNOWN,), range(1))
        return result.predicted[Setting(DRAWN, KNOWN)][0]


def _finite(answer: WaveformAnswer) -> WaveformAnswer:
    """The answer, or none where the model gives NaN or Inf: the largest of these says nothing."""
    is_finite = np.isfinite(answer.probabilities).all() and np.isfinite(answer.dimensions).all()
    return answer if is_finite else NO_ANSWER


@dataclass(frozen=True)
class Example:
    """One utterance, unchanged and under each change, to listen to."""

    corpus: str
    utterance: str
    clean: Waveform
    changed: Mapping[str, Waveform]  # by the name of the change


class CannotApply(Exception):
    """A change cannot be applied here; the message says why."""


def why_not(change: Change, material: Material, background: Background) -> str | None:
    """Why a change cannot be applied for lack of something to mix in."""
    if change.needs is None:
        return None
    if change.needs == "speech" and len(material.speech) < 2:
        return "the corpora have one speaker, and the change needs speech of another one"
    if getattr(material, change.needs):
        return None
    return background.missing.get(change.needs, f"there is no {change.needs} to mix in")


def changed_waveform(
    waveform: Waveform, drawn: Drawn, utterance: Utterance, change: Change, seed: int, material: Material
) -> Waveform:
    """Return an utterance under a change, as a reader of a file with it would return it.

    It depends on the seed, the corpus, the utterance and the change alone.
    """
    rng = np.random.default_rng(stable_seed("stress", seed, change.name, drawn.corpus, utterance.id))
    try:
        changed = change.apply(Recording(waveform, speaker_of(drawn, utterance)), rng, material)
    except AudioError as error:
        raise CannotApply(str(error)) from error
    return from_samples(changed, SAMPLE_RATE, utterance.id)


def make_example(
    drawn: Drawn, changes: Sequence[Change], seed: int, material: Material, background: Background
) -> Example | None:
    """The utterance of a corpus that lasts about `EXAMPLE_S`, under each change; None: it cannot be read."""
    chosen = min(drawn.utterances, key=lambda item: abs((item.duration_s or 0.0) - EXAMPLE_S))
    if (clean := load_or_none(chosen)) is None:
        return None
    changed = {}
    for change in changes:
        if why_not(change, material, background) is None:
            with suppress(CannotApply):  # Its cells say why.
                changed[change.name] = changed_waveform(clean, drawn, chosen, change, seed, material)
    return Example(drawn.corpus, chosen.id, clean, changed)
