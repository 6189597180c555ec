"""All checks of a run that need no training, in one place and before anything is trained.

The order is from cheap to expensive: the models that the recipe names, the corpus and its folds, what each
fold needs, and last the audit, which reads all audio. This module imports no torch, so that an error comes
within a second.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.audio.onnx_graph import check_file
from emodistill.config import Recipe, StudentConfig, load_recipe
from emodistill.console import say, warn
from emodistill.corpora import Corpus, Utterance
from emodistill.corpora.load import check_source, open_corpus, open_further
from emodistill.errors import ConfigError, ModelError
from emodistill.inference.model_card import BUNDLED, METADATA, read_description
from emodistill.models.pretrained import find_pretrained
from emodistill.models.student_checks import check_layers, too_few_layers
from emodistill.protocol import audit
from emodistill.protocol.audit import audit_protocol, audit_teacher, class_warnings
from emodistill.protocol.dimensions import report_dimensions
from emodistill.protocol.folds import SPLITS, Fold, Protocol, build_protocol, read_protocol
from emodistill.reading import read_json
from emodistill.training.packages import check_packages
from emodistill.training.target_checks import (
    check_acoustic_run,
    check_labels,
    check_votes,
    check_words,
    without_voted,
)

NO_TRANSCRIPTS = "no training utterance has a transcript"
_KINDS = {"prosodic": "prosodic", "linguistic": "linguistic", "student": "student", "acoustic": "student"}


@dataclass(frozen=True)
class AuditedData:
    """A recipe's corpus and folds, checked for leaks."""

    corpus: Corpus
    protocol: Protocol
    further: tuple[Utterance, ...] = ()  # transcribed speech without labels, for training alone
    voted: tuple[Utterance, ...] = ()  # with votes and no label, for training alone

    def folds(self, names: Sequence[str] | None) -> tuple[Fold, ...]:
        """The folds with these names; None: all. Raises `ConfigError` for an unknown name."""
        return self.protocol.folds if names is None else tuple(map(self.protocol.fold, names))


@dataclass(frozen=True)
class CheckedRecipe:
    """A recipe that can be trained, with its data."""

    recipe: Recipe  # with absolute paths, and without teachers that have no input
    data: AuditedData


def check_recipe(
    recipe: Recipe,
    folds: Sequence[str] | None = None,
    max_folds: int | None = None,
    data: AuditedData | None = None,
    out: Path | None = None,
) -> CheckedRecipe:
    """Read the data of a recipe, and check everything that needs no training.

    Args:
        folds: names of the folds that will be trained; None: all.
        max_folds: no more than so many of them will be trained.
        data: the recipe's corpus and folds, where they were read before.
        out: the run folder. What only finished folds need is not checked.

    Raises `ConfigError`, `CorpusError` or `ModelError` for what does not fit, and `LeakError` where the folds
    leak.
    """
    recipe = with_absolute_paths(recipe)
    if data is None:
        check_source(recipe.corpus)
    num_layers: dict[str, int] = {}
    if not _is_finished(recipe, out, folds, max_folds):
        check_packages(recipe)
        num_layers = check_models(recipe)
    is_new = data is None
    data = data or _open_data(recipe)
    chosen = [fold for fold in data.folds(folds)[:max_folds] if not _is_done(recipe, out, fold.name)]
    checked = _check_data(recipe, data, chosen, num_layers)
    if is_new:
        if checked.name != recipe.name:
            warn(f"the linguistic teacher is left out: {NO_TRANSCRIPTS}; the run is named '{checked.name}'")
        _count_transcripts(checked, data)
        _audit(recipe, data)
    return CheckedRecipe(checked, data)


def _is_done(recipe: Recipe, out: Path | None, fold: str) -> bool:
    """Whether a run folder has the predictions of a fold."""
    return out is not None and (out / f"fold-{fold}" / recipe.last_table).is_file()


def _is_finished(recipe: Recipe, out: Path | None, folds: Sequence[str] | None, limit: int | None) -> bool:
    """Whether a run folder has the predictions of all folds that will be run."""
    if folds is not None and not folds:
        return True
    if out is None or not (out / "protocol.json").is_file():
        return False
    names: Sequence[str] = (
        folds if folds is not None else [fold.name for fold in read_protocol(out / "protocol.json").folds]
    )
    return all(_is_done(recipe, out, name) for name in names[:limit])


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths where files and folders exist, so that it can be run from any folder."""
    names = (
        "root", "manifest", "transcripts", "words", "further", "further_words", "run", "init", "backbone",
        "encoder", "folds_from",
    )  # fmt: skip

    def absolute(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: absolute(item, key) for key, item in value.items()}
        if name not in names or not isinstance(value, str) or value in ("compact", "scratch", "bundled"):
            return value
        path = Path(value).expanduser()
        return str(path.resolve()) if path.exists() else value

    return Recipe.model_validate(absolute(recipe.model_dump()))


def read_data(recipe: Recipe) -> AuditedData:
    """Read the corpus and divide it into folds; raises `LeakError` where these leak."""
    data = _open_data(recipe)
    _audit(recipe, data)
    return data


def _open_data(recipe: Recipe) -> AuditedData:
    """Read the corpus and divide it into folds, without the audit."""
    corpus = open_corpus(recipe.corpus, say, recipe.targets, keep_voted=recipe.learns_from_votes)
    corpus, voted = without_voted(corpus, recipe.dimensions)
    protocol = build_protocol(corpus, recipe.protocol)
    return AuditedData(corpus, protocol, open_further(recipe.corpus, say), voted)


def _audit(recipe: Recipe, data: AuditedData) -> None:
    """Audit the folds and describe them. Raises `LeakError` where they leak."""
    corpus, protocol, others = data.corpus, data.protocol, (*data.further, *data.voted)
    findings = audit_protocol(corpus, protocol, recipe.runtime.workers, others, recipe.dimensions)
    say(
        f"{corpus.name}: {len(corpus)} utterances, {len(corpus.speakers)} speakers, {len(corpus.labels)} "
        f"emotions; {len(protocol.folds)} folds ({protocol.description}), protocol {protocol.stamp}"
    )
    for warning in class_warnings(corpus.utterances, protocol):
        warn(warning)
    report_dimensions(corpus, findings.dimensions)
    for pair in findings.duplicates:
        warn(f"identical recordings inside one split: {pair[0]} = {pair[1]}")
    if findings.shared_transcripts:
        share = np.mean(list(findings.shared_transcripts.values()))
        say(f"test utterances whose transcript also occurs in training: {100 * share:.1f} %")
    if data.further:
        say(f"further speech without labels: {len(data.further)} utterances")


# --- models ----------------------------------------------------------------------------------------


def check_models(recipe: Recipe) -> dict[str, int]:
    """Find every model that the recipe names. Return the numbers of layers that are used, by section.

    A section is missing from the result where config.json states no number of layers, or where the shape
    comes from `init`. Raises `ModelError` for a model that cannot be found, and for too few layers.
    """
    teachers, acoustic = recipe.distillation.teachers, recipe.acoustic
    if "acoustic" in teachers and recipe.student and recipe.distillation.hidden and not recipe.augment.views:
        raise ConfigError("distillation.hidden needs a fixed number of views: set augment.views to 1 or more")
    layers: dict[str, int] = {}
    students: dict[str, StudentConfig] = {}
    if recipe.student is not None:
        students["student"] = recipe.student
    if "acoustic" in teachers and acoustic.run is None:
        students["acoustic.student"] = acoustic.student
    for name, config in students.items():
        if config.init is not None:
            check_init(config.init, f"{name}.init", "student")
        elif config.backbone == "compact":
            layers[name] = config.layers or 6
        else:
            total = find_pretrained(config.backbone, f"{name}.backbone").num_layers
            if total is not None and config.layers is not None and config.layers > total:
                raise ModelError(too_few_layers(config.layers, total, name))
            if total is not None:
                layers[name] = config.layers or total
    if "prosodic" in teachers and recipe.prosodic.init is not None:
        check_init(recipe.prosodic.init, "prosodic.init", "prosodic")
    if "linguistic" in teachers:
        _check_encoder(recipe)
    return layers


def _check_encoder(recipe: Recipe) -> None:
    """Find the text encoder, and check `linguistic.frozen` against its layers."""
    settings = recipe.linguistic
    if settings.init is not None:
        check_init(settings.init, "linguistic.init", "linguistic")
    total: int | None = 2  # layers of the untrained encoder
    if settings.encoder != "scratch":
        total = find_pretrained(settings.encoder, "linguistic.encoder", with_tokenizer=True).num_layers
    if total is not None and settings.frozen > total:
        raise ModelError(
            f"linguistic.frozen = {settings.frozen}, but '{settings.encoder}' has {total} layers: lower "
            "linguistic.frozen, or set it to 0"
        )


def check_init(init: str, field: str, kind: str) -> tuple[str, ...]:
    """Return the training ids of a model to start from. Raises `ModelError` where there is no such model."""
    folder = BUNDLED if init == "bundled" else Path(init)
    where = f"{field} = '{init}'"
    if not folder.is_dir():
        raise ModelError(
            f"{where}: no such folder; expected bundled, or the folder of an exported model or a checkpoint"
        )
    if (folder / "model.onnx").is_file():
        import onnx

        check_file(folder / "model.onnx")
        metadata = onnx.load(folder / "model.onnx", load_external_data=False).metadata_props
        text = {entry.key: entry.value for entry in metadata}.get(METADATA)
        description = {"kind": "student"} if text is None else read_description(text)
    elif (folder / "model.json").is_file():
        description = read_json(folder / "model.json", ModelError, "is no description of a checkpoint")
    else:
        raise ModelError(
            f"{where}: the folder has neither model.json, as a checkpoint has, nor model.onnx, as an "
            "exported model has"
        )
    if description.get("kind", kind) != kind:
        raise ConfigError(f"{where}: it holds a {description['kind']} model, expected a {kind} model")
    return tuple(description.get("training_ids", ()))


# --- what each fold needs ---------------------------------------------------------------------------


def missing_teachers(recipe: Recipe, data: AuditedData) -> tuple[str, ...]:
    """The teachers of a recipe that have no input in the training part of a fold."""
    if "linguistic" not in recipe.distillation.teachers:
        return ()
    spoken = {utterance.id for utterance in data.corpus if utterance.transcript}
    return () if all(spoken.intersection(fold.train) for fold in data.protocol.folds) else ("linguistic",)


def with_used_teachers(recipe: Recipe, data: AuditedData) -> Recipe:
    """The recipe with the teachers that have input, named after those that it lacks.

    Raises `ConfigError` where a teacher has no input and `distillation.allow_missing_teachers` is false.
    """
    missing = missing_teachers(recipe, data)
    if not missing:
        return recipe
    used = tuple(name for name in recipe.distillation.teachers if name not in missing)
    if not recipe.distillation.allow_missing_teachers or recipe.student is None:
        raise ConfigError(_no_input_message(recipe, data, used))
    name = recipe.name + "".join(f"-without-{teacher}" for teacher in missing)
    off = {} if "linguistic" in used else {"words": 0.0, "word_contrast": 0.0}  # its terms go with it
    distillation = recipe.distillation.model_copy(update={"teachers": used, **off})
    return recipe.model_copy(update={"name": name, "distillation": distillation})


def _no_input_message(recipe: Recipe, data: AuditedData, used: tuple[str, ...]) -> str:
    """Return the message for a linguistic teacher without transcripts; `used` are the other teachers."""
    spoken = {utterance.id for utterance in data.corpus if utterance.transcript}
    folds = data.protocol.folds
    lacking = [fold.name for fold in folds if not spoken.intersection(fold.train)]
    where = "" if len(lacking) == len(folds) else f" of fold {', '.join(lacking)}"
    message = (
        f"the linguistic teacher has no input: no training utterance{where} of '{data.corpus.name}' has a "
        "transcript; add transcripts (--set corpus.transcripts=FILE)"
    )
    if recipe.student is None:
        return message
    return (
        f"{message}, train without this teacher (--set 'distillation.teachers={json.dumps(list(used))}'), or "
        "allow a run without it under another name (--set distillation.allow_missing_teachers=true)"
    )


def _check_data(
    recipe: Recipe, data: AuditedData, chosen: Sequence[Fold], num_layers: dict[str, int]
) -> Recipe:
    """Check a recipe against its data and return it with the teachers that are used."""
    by_id = {utterance.id: utterance for utterance in data.corpus}
    for fold in chosen:
        _check_main_input(recipe, data.corpus.name, fold, by_id)
        check_labels(recipe, fold, by_id)
    recipe = with_used_teachers(recipe, data)
    labels = data.corpus.labels
    students = {"student": recipe.student, "acoustic.student": recipe.acoustic.student}
    for name, layers in num_layers.items():
        config = students[name]
        assert config is not None
        check_layers(config, layers, len(labels), name)
        if config.probe is not None:
            _check_probe(name, chosen, by_id, labels.names)
    for fold in chosen:
        _check_training_ids(recipe, fold, by_id)
        _check_out_of_fold(recipe, fold, by_id)
        check_words(recipe, fold, by_id)
        check_votes(recipe, fold, by_id, labels)
        if "acoustic" in recipe.distillation.teachers and recipe.acoustic.run is not None:
            check_acoustic_run(recipe, fold, labels.names)
    return recipe


def _check_main_input(recipe: Recipe, corpus: str, fold: Fold, by_id: dict[str, Utterance]) -> None:
    """Raise `ConfigError` where no utterance of a split has the input of the main model."""
    reads_text = recipe.main_model == "linguistic"
    for split in SPLITS:
        items = [by_id[name] for name in fold.split(split)]
        if not items or any(item.transcript if reads_text else item.path for item in items):
            continue
        model = "a student" if recipe.student is not None else f"the {recipe.main_model} teacher"
        hint = "; to train a linguistic teacher alone: --set student=none" if recipe.student else ""
        raise ConfigError(
            f"'{corpus}', fold {fold.name}: no utterance of {split} has the "
            f"{'transcript' if reads_text else 'audio'} that {model} needs{hint}"
        )


def _count_transcripts(recipe: Recipe, data: AuditedData) -> None:
    """Report how many utterances have no transcript, where a linguistic teacher is trained."""
    if "linguistic" not in recipe.distillation.teachers:
        return
    silent = {utterance.id for utterance in data.corpus if not utterance.transcript}
    if not silent:
        return
    shares = {fold.name: len(silent.intersection(fold.train)) for fold in data.protocol.folds}
    counts = ", ".join(
        f"{shares[fold.name]} of {len(fold.train)} in fold {fold.name}" for fold in data.protocol.folds[:5]
    )
    more = ", …" if len(data.protocol.folds) > 5 else ""
    warn(
        f"{len(silent)} of {len(data.corpus)} utterances have no transcript: the linguistic teacher does not "
        f"learn from them, and the student gets no linguistic target for them (in training: {counts}{more})"
    )


def _check_probe(
    name: str, folds: Sequence[Fold], by_id: dict[str, Utterance], emotions: tuple[str, ...]
) -> None:
    """Raise `ConfigError` where an emotion is missing in the training part of a fold."""
    for fold in folds:
        present = {by_id[item].emotion for item in fold.train if by_id[item].path is not None}
        absent = [emotion for emotion in emotions if emotion not in present]
        if absent:
            raise ConfigError(
                f"{name}.probe needs every emotion in training: training of fold {fold.name} lacks {absent}; "
                f"unset {name}.probe, or leave these emotions out with corpus.labels"
            )


def _check_training_ids(recipe: Recipe, fold: Fold, by_id: dict[str, Utterance]) -> None:
    """Raise `LeakError` where a model to start from was trained on a held-out utterance of a fold."""
    held_out = [by_id[item] for item in (*fold.dev, *fold.test)]
    names = {name for item in held_out for name in audit.ids_of(item, recipe.corpus.name)}
    inits = {"student": None if recipe.student is None else recipe.student.init}
    inits |= {"prosodic": recipe.prosodic.init, "linguistic": recipe.linguistic.init}
    if recipe.acoustic.run is None:
        inits["acoustic"] = recipe.acoustic.student.init
    for name, init in inits.items():
        if init is not None and (name == "student" or name in recipe.distillation.teachers):
            training_ids = check_init(init, f"{name}.init", _KINDS[name])
            audit_teacher(training_ids, names, f"initial {name}")
            audit.warn_of_equal_ids(training_ids, held_out, f"{name}.init = '{init}'")


def _check_out_of_fold(recipe: Recipe, fold: Fold, by_id: dict[str, Utterance]) -> None:
    """Raise `ConfigError` where out-of-fold targets cannot be made."""
    if recipe.distillation.targets != "out-of-fold" or recipe.student is None:
        return
    if "acoustic" in recipe.distillation.teachers and recipe.acoustic.run is not None:
        raise ConfigError("out-of-fold targets need a teacher that this run trains: unset acoustic.run")
    for teacher in recipe.distillation.teachers:
        items = [by_id[name] for name in fold.train]
        speakers = {i.speaker for i in items if (i.transcript if teacher == "linguistic" else i.path)}
        if len(speakers) < 2:
            raise ConfigError(
                f"out-of-fold targets need at least two training speakers, got {len(speakers)} for the "
                f"{teacher} teacher in fold {fold.name}: set distillation.targets to in-sample"
            )


# --- the run folder ---------------------------------------------------------------------------------


def refuse_other_run(recipe: Recipe, protocol: Protocol, out: Path) -> bool:
    """Return whether the folder holds a run of this recipe. Raises `ConfigError` for another recipe."""
    path = out / "recipe.toml"
    if not path.is_file():
        return False
    recorded, requested = load_recipe(path).deciding_settings(), recipe.deciding_settings()
    if recorded != requested:
        raise ConfigError(
            f"'{out}' holds a run of another recipe: {first_difference(recorded, requested)}; choose "
            "another folder with --out"
        )
    if read_protocol(out / "protocol.json").hash != protocol.hash:
        raise ConfigError(
            f"'{out}' holds a run on other data or folds: its protocol hash differs; choose another "
            "folder with --out"
        )
    return True


def first_difference(recorded: Any, requested: Any, prefix: str = "") -> str:
    """The first setting that differs, with both values, for a message."""
    for key in {**recorded, **requested}:
        one, two = recorded.get(key), requested.get(key)
        if one != two:
            if isinstance(one, dict) and isinstance(two, dict):
                return first_difference(one, two, f"{prefix}{key}.")
            return f"{prefix}{key} is {one!r} there and {two!r} here"
    return "no difference"
