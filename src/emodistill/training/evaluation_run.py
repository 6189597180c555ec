"""`emodistill evaluate`: any model on any corpus, its labels declared, into a folder like a run's.

    folder/
      evaluation.json                    which model, on what, under which mapping
      protocol.json  utterances.csv      one fold, all of it test
      fold-all/predictions.csv           what it said
      predictions.csv  scores.json       the same, as a run has it

So `scores`, `compare` and `report` read it as they read a run.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from typing import Protocol as Interface

import numpy as np
import numpy.typing as npt

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.config import AudioConfig, load_recipe
from emodistill.console import say, warn, with_progress
from emodistill.corpora import READERS, Corpus, Utterance, drop_bad_audio, read_corpus, read_manifest
from emodistill.corpora.load import report_left_out
from emodistill.errors import AudioError, ConfigError, LeakError, MissingExtraError, ModelError, one_of
from emodistill.evaluation.predictions import Predictions, write_predictions
from emodistill.evaluation.run import EVALUATION, read_run, table_name, write_checksums, write_utterances
from emodistill.files import atomic_write
from emodistill.inference.hub import download_model, is_hub_id, split_revision
from emodistill.inference.model_card import BUNDLED, file_sha256
from emodistill.labels import EMOTIONS, LABEL_MAPS, LabelSet, get_label_map
from emodistill.protocol.folds import Fold, Protocol

FOLD = "all"
Heard = Literal["refuse", "leave-out", "allow"]
Floats = npt.NDArray[np.float64]


class EvaluatedModel(Interface):
    """A model that can be asked."""

    kind: str
    names: tuple[str, ...]  # what it calls the emotions
    known_ids: frozenset[str]  # every utterance that it learned from, or was chosen by, as far as it says

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        """Rows of the utterances that it could judge, and its probabilities for these, (rows, names)."""


@dataclass(frozen=True)
class Evaluation:
    """What was asked for, as it is kept in `evaluation.json`."""

    model: str
    kind: str
    sha256: str | None  # of its weights, where they are one file
    corpus: str
    mapping: dict[str, str | None]  # what the model says -> emotion, or None: left out
    emotions: tuple[str, ...]  # that are scored
    heard: Heard
    left_out: dict[str, int] = field(default_factory=dict)  # why -> utterances


def evaluate(
    evaluated: EvaluatedModel,
    corpus: Corpus,
    out: Path,
    model: str,
    mapping: Mapping[str, str | None] | None = None,
    emotions: Sequence[str] | None = None,
    heard: Heard = "refuse",
    sha256: str | None = None,
) -> int:
    """Ask a model about a corpus and write the folder; returns how many utterances could not be judged.

    Args:
        mapping: what the model calls an emotion -> ours; None: its probability is left out. Names that are
            ours already need none. Several names may mean one emotion: their probabilities add up.
        emotions: those that are scored; needed where model and corpus know different ones. Utterances of others
            are left out, and so are the model's probabilities of others.
        heard: what becomes of utterances that the model learned from or was chosen by, and of their speakers' others.

    Raises `ConfigError` where labels do not fit and `LeakError` where the model has heard the corpus.
    """
    if (out / "recipe.toml").is_file():
        raise ConfigError(f"'{out}' holds a training: give another --out")
    meant = declared(evaluated.names, mapping or {})
    scored = scored_emotions(meant, corpus.labels, emotions)
    asked = Evaluation(model, evaluated.kind, sha256, corpus.name, meant, scored.names, heard)
    _refuse_another(out, asked)
    left_out: dict[str, int] = {}
    kept = [item for item in corpus if item.emotion in scored.names]
    if len(kept) < len(corpus):
        left_out["of other emotions"] = len(corpus) - len(kept)
    known = heard_before(kept, evaluated.known_ids, corpus.name)
    if known.any():
        _report_heard(known, kept, evaluated, heard)
        if heard == "leave-out":
            left_out["heard in training, or of a speaker heard there"] = int(known.sum())
            kept = [item for item, met in zip(kept, known, strict=True) if not met]
    if not kept:
        raise ConfigError(f"nothing of '{corpus.name}' is left to score: {left_out}")
    rows, said = evaluated(kept)
    failed = len(kept) - len(rows)
    if failed:
        left_out["not judged"] = failed
    if not rows:
        raise ModelError(f"the model could not judge any of {len(kept)} utterances of '{corpus.name}'")
    scored_utterances = [kept[row] for row in rows]
    for why, count in left_out.items():
        say(f"left out: {count} × {why}")
    asked = replace(asked, left_out=left_out)
    stamped = ("training data",) if known.any() and heard == "allow" else ()
    _write(
        asked,
        replace(corpus, utterances=tuple(scored_utterances)),
        scored,
        _merged(said, meant, scored),
        stamped,
        out,
    )
    return failed


def _refuse_another(out: Path, asked: Evaluation) -> None:
    """Raise `ConfigError` where a folder holds an evaluation of another model, on another corpus, or by other rules."""
    path = out / EVALUATION
    if not path.is_file():
        return
    try:
        there = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"'{path}' is damaged ({error}): give another --out, or delete it") from error
    for name, value in json.loads(json.dumps(asked.__dict__)).items():
        if name != "left_out" and there.get(name) != value:
            raise ConfigError(
                f"'{out}' holds another evaluation ({name}: {there.get(name)!r} there, {value!r} asked); give another --out"
            )


def declared(names: Sequence[str], mapping: Mapping[str, str | None]) -> dict[str, str | None]:
    """What each of a model's names means; raises `ConfigError` where one is no emotion and none was declared."""
    for name, emotion in mapping.items():
        if name not in names:
            raise ConfigError(one_of("name to map", name, names) + ": these the model says")
        if emotion is not None and emotion not in EMOTIONS:
            raise ConfigError(f"--map {name}={emotion}: " + one_of("emotion", emotion, EMOTIONS))
    unknown = [name for name in names if name not in mapping and name not in EMOTIONS]
    if unknown:
        example = ",".join(f"{name}=…" for name in unknown)
        raise ConfigError(
            f"the model says {list(names)}, and {unknown} are no emotions here: declare what they mean with "
            f"--map {example} (one of {list(EMOTIONS)}, or - to leave it out)"
        )
    return {name: mapping.get(name, name) for name in names}


def scored_emotions(
    meant: Mapping[str, str | None], corpus: LabelSet, asked: Sequence[str] | None
) -> LabelSet:
    """The emotions that are scored: those asked for, else those that model and corpus both must know."""
    model = LabelSet.from_emotions(name for name in meant.values() if name is not None)
    if asked is None:
        if model != corpus:
            both = [name for name in corpus if name in model.names]
            raise ConfigError(
                f"the model says {list(model)}, the corpus has {list(corpus)}: declare what is scored, as in "
                f"--emotions {','.join(both) or 'angry,sad'}, or merge some with --map or --labels"
            )
        return corpus
    for name in asked:
        for whose, labels in (("the model says", model), ("the corpus has", corpus)):
            if name not in labels.names:
                raise ConfigError(f"--emotions: {one_of('emotion', name, labels)}: these {whose}")
    return LabelSet.from_emotions(asked)


def heard_before(
    utterances: Sequence[Utterance], known_ids: frozenset[str], corpus: str
) -> npt.NDArray[np.bool_]:
    """Which utterances a model knows, or knows the speaker of, (utterances,).

    An utterance is known by its id, with or without its corpus's name before it, as pooled corpora have it.
    """

    def names(item: Utterance) -> Iterable[str]:
        yield item.id
        for name in {item.corpus or corpus, corpus}:
            yield f"{name}/{item.id}"
            yield item.id.removeprefix(f"{name}/")

    met = np.array([any(name in known_ids for name in names(item)) for item in utterances], dtype=bool)
    speakers = {item.speaker for item, seen in zip(utterances, met, strict=True) if seen}
    return np.array([item.speaker in speakers for item in utterances], dtype=bool)


def _report_heard(
    known: npt.NDArray[np.bool_], kept: Sequence[Utterance], evaluated: EvaluatedModel, heard: Heard
) -> None:
    first = kept[int(np.argmax(known))]
    speakers = {item.speaker for item, met in zip(kept, known, strict=True) if met}
    what = (
        f"the {evaluated.kind} has learned from this corpus, or was chosen by it: {int(known.sum())} of {len(kept)} "
        f"utterances are of {len(speakers)} speakers that it heard then, first '{first.id}' (speaker '{first.speaker}')"
    )
    if heard == "refuse":
        raise LeakError(
            f"{what}. Score the others with --seen leave-out, or all with --seen allow, which is stamped on the scores"
        )
    warn(f"{what}: {'these are left out' if heard == 'leave-out' else 'all are scored, and stamped so'}")


def _merged(said: Floats, meant: Mapping[str, str | None], scored: LabelSet) -> Floats:
    """Probabilities over what is scored (rows, emotions), of those over the model's names."""
    share = np.zeros((len(meant), len(scored)))
    for row, emotion in enumerate(meant.values()):
        if emotion in scored.names:
            share[row, scored.index(emotion)] = 1
    values = said @ share + 1e-12  # a model may be sure of what is left out
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def _write(
    asked: Evaluation,
    corpus: Corpus,
    scored: LabelSet,
    probabilities: Floats,
    stamped: tuple[str, ...],
    out: Path,
) -> None:
    from emodistill.training.cross_validation import summarise_scores

    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").unlink(missing_ok=True)  # the folder is complete when it is there again
    ids = tuple(item.id for item in corpus)
    protocol = Protocol(corpus.name, "all of it, by one model", (Fold(FOLD, (), (), ids),), stamped)
    protocol.write(out / "protocol.json")
    write_utterances(corpus, out)
    table = Predictions(
        scored, ids, (FOLD,) * len(ids), tuple(item.speaker for item in corpus),
        tuple(item.emotion or "" for item in corpus), probabilities,
    )  # fmt: skip
    path, said = out / table_name("student"), out / f"fold-{FOLD}" / table_name("student")
    said.parent.mkdir(exist_ok=True)
    for where in (said, path):
        write_predictions(table, where)
    write_checksums(said.parent, {said.name: file_sha256(said)})
    _write_json(out / EVALUATION, asked.__dict__)
    _write_json(
        out / "scores.json",
        {
            "recipe": f"{asked.model} on {corpus.name}", "seed": None, "protocol": protocol.stamp, "folds": [FOLD],
            "environment": _told(asked.left_out),
            "models": {"student": {"test": summarise_scores(table)}}, "sha256": {path.name: file_sha256(path)},
        },
    )  # fmt: skip
    read_run(out).table()


def _told(left_out: Mapping[str, int]) -> dict[str, str]:
    return {"left out": ", ".join(f"{count} × {why}" for why, count in left_out.items())} if left_out else {}


def _write_json(path: Path, data: Any) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- corpora and options ---------------------------------------------------------------------------


def open_labelled(corpus: str, folder: Path | None, labels: str | None) -> tuple[Corpus, bool]:
    """A manifest by path, or a known corpus by name and folder; and whether some audio was left out."""
    if corpus in READERS:
        if folder is None:
            raise ConfigError(
                f"corpus '{corpus}' is read from a folder: emodistill evaluate MODEL {corpus} FOLDER"
            )
        found = read_corpus(corpus, folder, labels)
    elif Path(corpus).suffix in (".csv", ".tsv", ".parquet"):
        if folder is not None:
            raise ConfigError(
                f"'{corpus}' is a manifest, which says itself where its audio is: leave '{folder}' out"
            )
        found = read_manifest(Path(corpus))
        if labels not in (None, "all"):
            found = found.relabel(get_label_map(labels))
    else:
        raise ConfigError(one_of("corpus", corpus, READERS) + ", or a manifest: .csv, .tsv or .parquet")
    found, problems = drop_bad_audio(found.relabel(LABEL_MAPS["own"]))
    report_left_out(found, problems, say)
    return found, bool(problems)


def read_mapping(text: str | None) -> dict[str, str | None]:
    """`ang=angry,oth=-` as a mapping; raises `ConfigError` where it is none."""
    found: dict[str, str | None] = {}
    for part in (text or "").split(",") if text else ():
        name, sign, emotion = (piece.strip() for piece in part.partition("="))
        if not name or not sign or not emotion:
            raise ConfigError(f"bad --map '{part}', expected the model's name=emotion, as in ang=angry,oth=-")
        if name in found:
            raise ConfigError(f"--map says twice what '{name}' means")
        found[name] = None if emotion == "-" else emotion
    return found


# --- models ----------------------------------------------------------------------------------------


def open_model(model: str) -> tuple[EvaluatedModel, str | None]:
    """A model by what it is: "bundled", a folder, or a hub id; and the hash of its weights.

    A folder may hold an exported model (`card.json`), a checkpoint (`model.json`), a run (whose first fold's
    student is taken) or a Hugging Face audio classifier (`config.json`). Raises `ModelError` for anything else.
    """
    folder = BUNDLED if model == "bundled" else Path(model)
    if not folder.exists() and is_hub_id(model):
        fetched = download_model(model)
        if not (fetched / "card.json").is_file():
            return TransformersModel(*split_revision(model)), None
        folder = fetched
    if (folder / "recipe.toml").is_file():
        folder = read_run(folder).checkpoint_folder()
    if (folder / "card.json").is_file():
        return ExportedModel(folder), file_sha256(folder / "model.onnx")
    if (folder / "model.json").is_file():
        return CheckpointModel(folder), file_sha256(folder / "model.safetensors")
    if (folder / "config.json").is_file():
        return TransformersModel(str(folder)), None
    raise ModelError(
        f"'{model}' is no model: expected bundled, a hub id, or a folder with card.json (exported), model.json "
        "(a checkpoint), recipe.toml (a run) or config.json (a Hugging Face audio classifier)"
    )


class ExportedModel:
    """An exported model through the recogniser, as its users hear it: speech is looked for, confidences are scaled."""

    kind = "exported model"

    def __init__(self, folder: Path) -> None:
        from emodistill.inference.recognizer import Recognizer

        self.recognizer = Recognizer(folder, threads=1)
        self.names = self.recognizer.emotions
        self.known_ids = self.recognizer.known_ids

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        rows, values, silent = [], [], 0
        for row, item in enumerate(with_progress(utterances, "recognise", len(utterances))):
            try:
                waveform = _sound(item)
            except AudioError as error:
                say(f"left out: '{item.id}': {error}")
                continue
            found = self.recognizer.predict(waveform).probabilities
            if found is None:
                silent += 1
                values.append(self.recognizer.probabilities(waveform))
            else:
                values.append(np.array(list(found.values())))
            rows.append(row)
        if silent:
            warn(
                f"{silent} utterances are no speech to the recogniser, which would abstain; judged all the same"
            )
        return rows, np.array(values)


class CheckpointModel:
    """One of our checkpoints: a student, or a prosodic or linguistic teacher."""

    kind = "checkpoint"

    def __init__(self, folder: Path) -> None:
        from emodistill.models.checkpoint import load_checkpoint

        self.found = load_checkpoint(folder)
        self.names = self.found.labels.names
        self.known_ids = self.found.known_ids
        self.audio = AudioConfig()
        for parent in folder.resolve().parents[:3]:  # fold-1/refit/student in its run folder
            if (parent / "recipe.toml").is_file():
                self.audio = load_recipe(parent / "recipe.toml").audio

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        from emodistill.training.checkpoint_inference import predict_checkpoint

        rows, said = predict_checkpoint(self.found, utterances, self.audio)
        return rows, np.asarray(said["logits"].double().softmax(dim=1).numpy() if rows else np.zeros((0, 1)))


class TransformersModel:
    """An audio classifier of Hugging Face's transformers, one utterance at a time: padding changes no answer."""

    kind = "Hugging Face model"
    known_ids: frozenset[str] = frozenset()  # it does not say

    def __init__(self, where: str, revision: str | None = None) -> None:
        try:
            from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
        except ImportError as error:
            raise MissingExtraError("transformers", "train") from error
        try:
            self.extractor = AutoFeatureExtractor.from_pretrained(where, revision=revision)
            self.model = AutoModelForAudioClassification.from_pretrained(where, revision=revision).eval()
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"'{where}' is no audio classifier that transformers can load: {' '.join(str(error).split())}"
            ) from error
        labels = self.model.config.id2label
        self.names = tuple(str(labels[index]) for index in sorted(labels))
        warn(f"'{where}' does not say what it learned from: make sure that it was not this corpus")

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        import soxr
        import torch

        rate = int(getattr(self.extractor, "sampling_rate", SAMPLE_RATE))
        rows, values = [], []
        with torch.no_grad():
            for row, item in enumerate(with_progress(utterances, "classify", len(utterances))):
                try:
                    waveform = _sound(item)
                except AudioError as error:
                    say(f"left out: '{item.id}': {error}")
                    continue
                heard = waveform if rate == SAMPLE_RATE else soxr.resample(waveform, SAMPLE_RATE, rate)
                inputs = self.extractor(heard, sampling_rate=rate, return_tensors="pt")
                values.append(self.model(**inputs).logits[0].double().softmax(dim=0).numpy())
                rows.append(row)
        return rows, np.array(values)


def _sound(item: Utterance) -> npt.NDArray[np.float32]:
    if item.path is None:
        raise AudioError("it is text alone")
    return load(item.path, item.start_s, item.end_s)
