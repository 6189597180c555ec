"""`emodistill cite`: what a run or a model was made with, as BibTeX."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emodistill.citations import (
    LIGHTNING,
    LORA,
    METHOD,
    PYTORCH,
    SOFTWARE,
    TRANSFORMERS,
    Citation,
    bibliography,
)
from emodistill.corpora.readers import READERS
from emodistill.errors import ModelError
from emodistill.evaluation.run import Run, read_run
from emodistill.inference.model_card import BUNDLED, Card, read_unchecked_card
from emodistill.models.compact import Compact

CARD = "card.json"


@dataclass
class References:
    """Publications, and what has none that is known here."""

    citations: list[Citation] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # sentences

    def add(self, entry: Citation | str | None, what: str) -> None:
        """Add a publication, or a sentence that says that none is known of `what`."""
        if isinstance(entry, Citation):
            self.citations.append(entry)
        else:
            self.unknown.append(f"{what}: {entry or 'no publication is known here, so look at its page'}.")

    def finish(self) -> "References":
        """The same with each publication and sentence once."""
        return References(bibliography(self.citations), list(dict.fromkeys(self.unknown)))

    def bibtex(self) -> str:
        """The publications as BibTeX. What has none stands above them as comments."""
        comments = [f"% {sentence}" for sentence in self.unknown]
        entries = [citation.bibtex() for citation in self.citations]
        return "\n\n".join(["\n".join(comments), *entries] if comments else entries) + "\n"


def references(sources: Sequence[str]) -> References:
    """The publications behind runs and models, after the method's paper and this software.

    A source is a run folder, a folder of `ablate`, the folder of an exported model, or "bundled". Raises
    `ModelError` for anything else.
    """
    found = References([METHOD, SOFTWARE])
    for source in sources:
        folder = BUNDLED if source == "bundled" else Path(source)
        if (folder / CARD).is_file():
            _add_model(found, read_unchecked_card(folder))
        elif (folder / "cells").is_dir():
            runs = sorted(path.parent for path in (folder / "cells").glob("*/seed-*/scores.json"))
            if not runs:
                raise ModelError(f"'{folder}' holds no finished run: run the same 'emodistill ablate' again")
            for run in runs:
                _add_run(found, read_run(run))
        else:
            _add_run(found, read_run(folder))
    return found.finish()


def _add_run(found: References, run: Run) -> None:
    """What a run was made with: corpora, backbones, text encoder, features, software."""
    used = {name for fold in run.protocol.folds for name in (*fold.train, *fold.dev, *fold.test)}
    corpora = (item.corpus for item in run.utterances.values() if item.id in used)
    _add_corpora(found, (name for name in corpora if name))
    if run.training_recipe is None:
        found.unknown.append(f"{run.scores['recipe']}: cite the model that was evaluated too.")
        return
    recipe = run.recipe
    if recipe.student is not None:
        start = recipe.student.init  # the student then keeps the backbone of the model that it starts from
        _add_backbone(found, start or recipe.student.backbone, _description(run, "student"))
        found.citations += [LORA] if recipe.student.lora else []
    if "acoustic" in run.models and recipe.acoustic.run is None:
        _add_backbone(found, recipe.acoustic.student.backbone, _description(run, "acoustic"))
        found.citations += [LORA] if recipe.acoustic.student.lora else []
    if "prosodic" in run.models:
        _add_features(found)
    if "linguistic" in run.models:
        _add_encoder(found, recipe.linguistic.encoder, _description(run, "linguistic"))
    found.citations += [PYTORCH, LIGHTNING, TRANSFORMERS]


def _add_model(found: References, card: Card) -> None:
    _add_corpora(found, [source.name for source in card.data])
    _add_backbone(found, card.backbone, {})
    if "prosodic" in card.teachers:
        _add_features(found)
    found.citations += [PYTORCH, LIGHTNING, TRANSFORMERS]


def _add_corpora(found: References, names: Iterable[str]) -> None:
    for name in dict.fromkeys(names):
        reader = READERS.get(name)
        found.add(None if reader is None else reader.citation, f"corpus '{name}'")


def _add_features(found: References) -> None:
    from emodistill.features.llds import CITATIONS

    found.citations += CITATIONS


def _add_backbone(found: References, name: str, description: dict[str, Any]) -> None:
    """The publication of a backbone's family. Pretrained weights may have another one, so these are named."""
    from emodistill.models.backbones import CITATIONS

    kind = description.get("backbone", {}).get("kind") or _model_type(name)
    found.add(CITATIONS.get(str(kind)), f"backbone '{name}'")
    if kind in CITATIONS and kind not in Compact.model_types:
        found.unknown.append(f"weights '{name}': see their page for a publication of their own.")


def _add_encoder(found: References, name: str, description: dict[str, Any]) -> None:
    from emodistill.models.linguistic import ENCODER_CITATIONS, SCRATCH

    kind = description.get("encoder", {}).get("model_type") or _model_type(name)
    found.add(ENCODER_CITATIONS.get(str(kind)), f"text encoder '{name}'")
    if kind in ENCODER_CITATIONS and name != SCRATCH:
        found.unknown.append(f"weights '{name}': see their page for a publication of their own.")


def _description(run: Run, model: str) -> dict[str, Any]:
    """The content of a checkpoint's model.json; empty where the run has no checkpoint of the model."""
    for path in sorted(run.folder.glob(f"fold-*/*/{model}/model.json")):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def _model_type(name: str) -> str | None:
    """The model type of a backbone or encoder by its folder or name; None where neither tells it."""
    from emodistill.models.backbones import CITATIONS
    from emodistill.models.linguistic import ENCODER_CITATIONS, SCRATCH

    if name == SCRATCH:
        return "bert"
    config = Path(name) / "config.json"
    if config.is_file():
        return str(json.loads(config.read_text(encoding="utf-8")).get("model_type"))
    known = sorted((*CITATIONS, *ENCODER_CITATIONS), key=len, reverse=True)
    return next((kind for kind in known if _names(name, kind)), None)


def _names(name: str, kind: str) -> bool:
    """Whether a model's name has the name of its type as a word: google/bert-base, not albert-base."""
    word = kind.removesuffix("-v2").removesuffix("-audio")
    return re.search(rf"(^|[/_-]){re.escape(word)}", name.lower()) is not None
