"""`emodistill evaluate`: score any model on any corpus, in a folder that is read like a run.

    folder/
      evaluation.json                    the model, the corpus, and the meaning of the model's names
      protocol.json  utterances.csv      one fold, in which all utterances are test
      fold-all/predictions.csv           the model's predictions
      predictions.csv  scores.json       the same predictions and their scores, where a run has them
      cost.json                          what the model costs at run time, see `evaluation.cost`
    known.csv                          with --known: predictions with known utterances of the speaker
      known.md  known.tex  known.png     their scores as tables and as a plot
      known-predictions.csv              probabilities with ten known utterances

So `scores`, `compare` and `report` read it as they read a run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emodistill.config.renaming import read_emotions
from emodistill.console import say, warn, with_progress
from emodistill.corpora import Corpus, Utterance, drop_bad_audio
from emodistill.corpora.load import CorpusSource, report_left_out
from emodistill.errors import ConfigError, LeakError, ModelError, one_of
from emodistill.evaluation.known import (
    DRAWS,
    Count,
    KnownPredictions,
    KnownTask,
    predict_known,
)
from emodistill.evaluation.run import (
    EVALUATION,
)
from emodistill.labels import DIMENSIONS, EMOTIONS, LABEL_MAPS, LEFT_OUT, LabelSet
from emodistill.protocol.audit import ids_of, warn_of_equal_ids
from emodistill.training.evaluated_models import (
    EvaluatedModel,
    Floats,
    VoiceModel,
    WaveformModel,
    measure_evaluated,
    voice_model,
)
from emodistill.training.evaluation_folder import FOLD, Evaluation, KnownTables, SeenRule, write_folder


@dataclass(frozen=True)
class KnownUtterances:
    """What `evaluate` needs to score with known utterances."""

    counts: tuple[Count, ...]
    corpus: Corpus  # the utterances that may be known: of all emotions, also those that are not scored


# Long: the parameters are the options of the command.
def evaluate(
    evaluated: EvaluatedModel,
    corpus: Corpus,
    out: Path,
    model: str,
    mapping: Mapping[str, str | None] | None = None,
    emotions: Sequence[str] | None = None,
    seen: SeenRule = "refuse",
    sha256: str | None = None,
    known: KnownUtterances | None = None,
) -> int:
    """Score a model on a corpus and write the folder; returns the number of utterances without a prediction.

    Args:
        model: the name under which the scores are written; `sha256` is that of its weights.
        mapping: the model's name of an emotion -> ours; None leaves the name out. Names that are ours already
            need no entry. The probabilities of names with the same emotion add up.
        emotions: the emotions that are scored; needed where model and corpus have different ones. Utterances
            of other emotions are left out, and so are the model's probabilities of them.
        seen: what to do with utterances of speakers that the model was trained or chosen on.
        known: also score with known utterances of the speaker; needs a model with voices.

    Dimensions are scored where the model predicts them and the corpus has labels of them, but not with
    `known`. A model with dimensions alone is scored on all utterances with one of their labels.

    Raises `ConfigError` where emotions or dimensions do not fit, and `ModelError` where the model can
    classify no utterance. Raises `LeakError` where the corpus has seen speakers and `seen` is "refuse".
    """
    if (out / "recipe.toml").is_file():
        raise ConfigError(f"'{out}' holds a training run: choose another folder with --out")
    dimensions = () if known is not None else scored_dimensions(evaluated, corpus)
    mapping = complete_mapping(evaluated.names, mapping or {})
    scored = scored_emotions(mapping, corpus.labels, emotions, dimensions)
    counts = None if known is None else known.counts
    evaluation = Evaluation(
        model, evaluated.kind, sha256, corpus.name, mapping, scored.names, seen, counts, dimensions
    )
    _ensure_same_settings(out, evaluation)
    kept, left_out, is_marked = _scored_utterances(evaluated, corpus, scored, dimensions, seen)
    values, known_tables = np.zeros((0, 0)), None
    if dimensions:
        rows, probabilities, values = evaluated.with_dimensions(kept)
        values = values[:, [evaluated.dimensions.index(name) for name in dimensions]]
    elif known is None:
        rows, probabilities = evaluated(kept)
    else:
        rows, probabilities, known_tables = _predict_known(
            voice_model(evaluated), kept, known, mapping, scored
        )
    _report_names_left_out(probabilities, mapping)
    num_failed = len(kept) - len(rows)
    if num_failed:
        left_out["not classified"] = num_failed
    if not rows:
        raise ModelError(f"the model could classify none of {len(kept)} utterances of '{corpus.name}'")
    for reason, count in left_out.items():
        say(f"left out: {count} × {reason}")
    write_folder(
        replace(evaluation, left_out=left_out),
        replace(corpus, utterances=tuple(kept[row] for row in rows)),
        scored,
        _over_emotions(probabilities, mapping, scored),
        values,
        ("training data",) if is_marked else (),
        out,
        known_tables,
    )
    measure_evaluated(evaluated, out)
    return num_failed


def _scored_utterances(
    evaluated: EvaluatedModel,
    corpus: Corpus,
    scored: LabelSet,
    dimensions: Sequence[str],
    seen: SeenRule,
) -> tuple[list[Utterance], dict[str, int], bool]:
    """The utterances to score, how many are left out by reason, and whether some speakers were seen."""
    left_out: dict[str, int] = {}
    if len(scored):
        kept = [item for item in corpus if item.emotion in scored.names]
        reason = "of other emotions"
    else:
        kept = [item for item in corpus if item.unit_dimensions().keys() & set(dimensions)]
        reason = f"without {' and '.join(dimensions)}"
    if len(kept) < len(corpus):
        left_out[reason] = len(corpus) - len(kept)
    kept, num_seen, is_marked = unseen_utterances(kept, evaluated, corpus.name, seen)
    if num_seen:
        left_out["of speakers that the model was trained or chosen on"] = num_seen
    if not kept:
        raise ConfigError(f"no utterance of '{corpus.name}' is left to score: {left_out}")
    return kept, left_out, is_marked


def _ensure_same_settings(out: Path, evaluation: Evaluation) -> None:
    """Raise `ConfigError` where a folder holds an evaluation with other settings."""
    path = out / EVALUATION
    if not path.is_file():
        return
    try:
        recorded = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error}): delete it, or choose another folder with --out"
        ) from error
    recorded.setdefault("dimensions", [])  # evaluations of older versions have none
    for name, value in evaluation.to_dict().items():
        if name != "left_out" and recorded.get(name) != value:
            raise ConfigError(
                f"'{out}' holds another evaluation: {name} is {recorded.get(name)!r} there and {value!r} "
                "here; choose another folder with --out"
            )


# --- emotions ------------------------------------------------------------------------------------


def complete_mapping(names: Sequence[str], mapping: Mapping[str, str | None]) -> dict[str, str | None]:
    """The emotion of each of a model's names; None: left out.

    Raises `ConfigError` for an entry of an unknown name or emotion, and for a name that is no emotion and has
    no entry.
    """
    for name, emotion in mapping.items():
        if name not in names:
            raise ConfigError(f"--map {name}=…: " + one_of("name of the model", name, names))
        if emotion is not None and emotion not in EMOTIONS:
            raise ConfigError(f"--map {name}={emotion}: " + one_of("emotion", emotion, EMOTIONS))
    unknown = [name for name in names if name not in mapping and name not in EMOTIONS]
    if unknown:
        example = ",".join(f"{name}=…" for name in unknown)
        raise ConfigError(
            f"the model has the names {list(names)}, and {unknown} are no emotions here: give their emotions "
            f"with --map {example} (each one of {list(EMOTIONS)}, or - to leave the name out)"
        )
    return {name: mapping.get(name, name) for name in names}


def scored_emotions(
    mapping: Mapping[str, str | None],
    corpus: LabelSet,
    emotions: Sequence[str] | None,
    dimensions: Sequence[str] = (),
) -> LabelSet:
    """The emotions that are scored: the given ones, else all, which model and corpus must then share.

    None are scored where model or corpus has none, and `dimensions` are scored.
    """
    if dimensions and emotions is None and not (mapping and len(corpus)):
        return LabelSet(())
    if not mapping:
        raise ConfigError("the model predicts dimensions alone: leave --emotions and --known out")
    model = LabelSet.from_emotions(emotion for emotion in mapping.values() if emotion is not None)
    if emotions is None:
        if model != corpus:
            shared = ",".join(name for name in corpus if name in model.names)
            raise ConfigError(
                f"the model has the emotions {list(model)}, and the corpus has {list(corpus)}: choose those "
                f"to score, as in --emotions {shared or 'angry,sad'}, or merge some with "
                "--map, --map-emotions or --labels"
            )
        return corpus
    for name in emotions:
        for owner, labels in (("the model", model), ("the corpus", corpus)):
            if name not in labels.names:
                raise ConfigError(f"--emotions: {one_of(f'emotion of {owner}', name, labels)}")
    return LabelSet.from_emotions(emotions)


def scored_dimensions(evaluated: EvaluatedModel, corpus: Corpus) -> tuple[str, ...]:
    """The dimensions that the model predicts and that some utterances have labels of.

    Raises `ConfigError` for a model with dimensions alone that shares none with the corpus.
    """
    if not evaluated.dimensions:
        return ()
    present = {name for item in corpus for name in item.unit_dimensions()}
    shared = tuple(name for name in DIMENSIONS if name in evaluated.dimensions and name in present)
    if not shared and not evaluated.names:
        raise ConfigError(
            f"the model predicts {', '.join(evaluated.dimensions)}, and no utterance of '{corpus.name}' has "
            f"a label of these (the corpus has {', '.join(sorted(present)) or 'no dimension'})"
        )
    return shared


def read_mapping(text: str | None) -> dict[str, str | None]:
    """The mapping of a text such as `ang=angry,oth=-`; raises `ConfigError` for a bad one."""
    pairs = read_emotions([text] if text else [], "--map")
    return {name: None if emotion == LEFT_OUT else emotion for name, emotion in pairs.items()}


def _report_names_left_out(probabilities: Floats, mapping: Mapping[str, str | None]) -> None:
    """Say which of the model's names are left out, and how often they were the most probable."""
    for column, (name, emotion) in enumerate(mapping.items()):
        if emotion is None:
            count = int((probabilities.argmax(axis=1) == column).sum())
            say(f"--map leaves '{name}' out: most probable for {count} of {len(probabilities)} utterances")


def _over_emotions(probabilities: Floats, mapping: Mapping[str, str | None], scored: LabelSet) -> Floats:
    """Probabilities of the scored emotions (rows, emotions), from those of the names (rows, names)."""
    values = probabilities @ _emotion_of_name(mapping, scored) + 1e-12  # all others may have probability 1
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def _emotion_of_name(mapping: Mapping[str, str | None], scored: LabelSet) -> Floats:
    """1 where a name stands for a scored emotion, (names, emotions)."""
    belongs = np.zeros((len(mapping), len(scored)))
    for row, emotion in enumerate(mapping.values()):
        if emotion in scored.names:
            belongs[row, scored.index(emotion)] = 1
    return belongs


# --- known utterances ----------------------------------------------------------------------------


def _predict_known(
    model: VoiceModel,
    kept: Sequence[Utterance],
    known: KnownUtterances,
    mapping: Mapping[str, str | None],
    scored: LabelSet,
) -> tuple[list[int], Floats, KnownTables]:
    """What `model(kept)` returns, and the predictions of these rows with known utterances.

    The audio of each utterance is read once, also that of utterances which are known and not scored.
    """

    def speaker(item: Utterance) -> str:
        return f"{item.corpus or known.corpus.name}/{item.speaker}"

    speakers, ids = {speaker(item) for item in kept}, {item.id for item in kept}
    others = [item for item in known.corpus if speaker(item) in speakers and item.id not in ids]
    everyone = [*kept, *others]
    if len(everyone) == len(speakers):
        raise ConfigError(
            f"--known: every speaker of '{known.corpus.name}' has one utterance, so no other can be known: "
            "leave --known out, or check the column 'speaker' of the corpus"
        )
    rows, probabilities, statistics = model.with_statistics(everyone)
    items = [everyone[row] for row in rows]
    kept_rows = [row for row in rows if row < len(kept)]
    probabilities = probabilities[: len(kept_rows)]
    original = {item.id: item.emotion for item in known.corpus}
    is_neutral = np.array(["neutral" in (item.emotion, original.get(item.id)) for item in items], dtype=bool)
    task = KnownTask(
        [item.id for item in items], [speaker(item) for item in items], np.arange(len(kept_rows)),
        _over_emotions(probabilities, mapping, scored), statistics,
        _emotion_of_name(mapping, scored), is_neutral if is_neutral.any() else None,
    )  # fmt: skip
    draws = with_progress(range(DRAWS), "draw known utterances", DRAWS)
    result = predict_known(task, model.head, known.counts, draws)
    scored_items = items[: len(kept_rows)]
    table = KnownPredictions(
        scored, tuple(item.id for item in scored_items), (FOLD,) * len(scored_items),
        tuple(item.corpus or known.corpus.name for item in scored_items),
        tuple(item.speaker for item in scored_items), tuple(item.emotion or "" for item in scored_items),
        result.predicted, result.used,
    )  # fmt: skip
    return kept_rows, probabilities, KnownTables(table, result.probabilities)


# --- seen speakers -------------------------------------------------------------------------------


def by_seen_speakers(
    utterances: Sequence[Utterance], known_ids: frozenset[str], corpus: str
) -> npt.NDArray[np.bool_]:
    """Which utterances are by speakers that a model was trained or chosen on, (utterances,).

    A speaker counts as seen if `known_ids` has one of the speaker's utterances, see `ids_of`.
    """
    speakers = {item.speaker for item in utterances if known_ids & ids_of(item, corpus)}
    return np.array([item.speaker in speakers for item in utterances], dtype=bool)


def unseen_utterances(
    utterances: list[Utterance], evaluated: WaveformModel, corpus: str, seen: SeenRule
) -> tuple[list[Utterance], int, bool]:
    """The utterances that may be scored, how many are left out, and whether some are of seen speakers.

    `corpus` is the name of the corpus. Raises `LeakError` for seen speakers where `seen` is "refuse".
    """
    is_seen = by_seen_speakers(utterances, evaluated.known_ids, corpus)
    if not is_seen.any():
        warn_of_equal_ids(evaluated.known_ids, utterances, f"the {evaluated.kind}")
        return utterances, 0, False
    _refuse_or_report(is_seen, utterances, evaluated, seen)
    if seen == "allow":
        return utterances, 0, True
    return (
        [item for item, skip in zip(utterances, is_seen, strict=True) if not skip],
        int(is_seen.sum()),
        False,
    )


def _refuse_or_report(
    is_seen: npt.NDArray[np.bool_], utterances: Sequence[Utterance], evaluated: WaveformModel, seen: SeenRule
) -> None:
    first = utterances[int(np.argmax(is_seen))]
    speakers = {item.speaker for item, flag in zip(utterances, is_seen, strict=True) if flag}
    finding = (
        f"the {evaluated.kind} was trained or chosen on speakers of this corpus: {int(is_seen.sum())} of "
        f"{len(utterances)} utterances are by {len(speakers)} such speakers, the first is '{first.id}' "
        f"(speaker '{first.speaker}')"
    )
    if seen == "refuse":
        raise LeakError(
            f"{finding}. Score the others with --seen leave-out, or all with --seen allow, which marks the "
            "scores"
        )
    action = "these are left out" if seen == "leave-out" else "all are scored, and the scores are marked"
    warn(f"{finding}; {action}")


# --- corpora --------------------------------------------------------------------------------------


def open_labelled_corpus(
    source: CorpusSource, labels: str | None, with_emotions: bool = True
) -> tuple[Corpus, bool]:
    """Read the utterances that have an emotion, or all of them with `with_emotions` False.

    Also returns whether some of their audio cannot be read and is left out.
    """
    if with_emotions:
        corpus = source.read(labels, say).relabel(LABEL_MAPS["own"])
    else:
        corpus = source.read(labels or "all", say)
    labelled, problems = drop_bad_audio(corpus)
    report_left_out(labelled, problems, say)
    return labelled, bool(problems)


def read_every_utterance(source: CorpusSource) -> Corpus:
    """Read the utterances of all emotions, also those that a map leaves out, and those without an emotion.

    Utterances whose audio cannot be read are left out.
    """
    return drop_bad_audio(source.read("all", lambda _: None, keep_left_out=True))[0]
