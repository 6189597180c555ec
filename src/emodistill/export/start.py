"""What the card of a model says of the model that its training started from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emodistill.inference.model_card import BUNDLED, DataSource, read_unchecked_card

START = "start"  # stands for a split: the utterances of the first training


def inherited_fields(init: str | None, data: tuple[DataSource, ...], backbone: str) -> dict[str, Any]:
    """Return backbone, data and licence of a card, with those of the model that a student started from.

    `init` is `student.init`, and `data` and `backbone` are those of the recipe. A student that starts from a
    model keeps its shape, so the recipe's backbone is not used.
    """
    if init is None:
        return {"backbone": backbone, "data": data}
    folder = BUNDLED if init == "bundled" else Path(init)
    if not (folder / "card.json").is_file():
        return {
            "backbone": f"that of the checkpoint '{folder.name}'",
            "data": data,
            "licence": f"The training started from the checkpoint '{folder.name}'. Its terms, those of its "
            "corpora and those of the training corpora apply: read them before any use.",
        }
    card = read_unchecked_card(folder)
    own = {source.name for source in data}
    inherited = tuple(
        source.model_copy(update={"utterances": {START: _total(source.utterances)}})
        for source in card.data
        if source.name not in own
    )
    return {
        "backbone": card.backbone,
        "data": (*data, *inherited),
        "licence": f"The training started from '{card.name}', whose terms apply: {card.licence} The licences "
        "of the training corpora apply too.",
    }


def _total(counts: Mapping[str, int]) -> int:
    return sum(counts.values())
