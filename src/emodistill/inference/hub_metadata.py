"""The metadata of a model card as the Hugging Face Hub reads it, made by the hub's own library."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from emodistill.errors import MissingExtraError
from emodistill.inference.model_card import Card

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

Library = Literal["emodistill", "transformers"]  # what loads the folder; the value of `library_name`

TASK = "audio-classification"
LICENCE_FILE = "LICENSE"  # the name that the hub expects beside a licence without an identifier
_TAGS = {
    "emodistill": ("speech-emotion-recognition", "knowledge-distillation", "onnx", "audio"),
    "transformers": ("speech-emotion-recognition", "knowledge-distillation", "emodistill", "audio"),
}
_METRICS = {  # measure of a card -> metric id of the hub, name
    "ua": ("recall", "UA (mean recall of the emotions)"),
    "wa": ("accuracy", "WA (accuracy)"),
    "macro_f1": ("f1", "macro F1"),
}


def has_licence_id(card: Card) -> bool:
    """Return whether the licence is an identifier such as cc-by-4.0; with blanks it is a sentence."""
    return " " not in card.licence


def hub_card(card: Card, body: str, library: Library = "emodistill") -> str:
    """Return the text of a README.md for the hub: metadata as YAML, and `body`.

    Raises `MissingExtraError` without huggingface_hub.
    """
    data = hub_metadata(card, library)
    from huggingface_hub import ModelCard

    # It parses the metadata again, and raises where they are not valid.
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def hub_metadata(card: Card, library: Library = "emodistill") -> "ModelCardData":
    """Return the metadata of a card: licence, languages, data, and every score as the hub's `model-index`.

    Raises `MissingExtraError` without huggingface_hub.
    """
    try:
        from huggingface_hub import ModelCardData
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", "the README.md of a model") from error
    is_identifier = has_licence_id(card)
    results = list(_results(card))
    return ModelCardData(
        license=card.licence.lower() if is_identifier else "other",
        license_name=None if is_identifier else "see-below",
        license_link=None if is_identifier else LICENCE_FILE,
        language=list(card.languages) or None,
        datasets=training_corpora(card),
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=card.name if results else None,
        eval_results=results or None,
        pipeline_tag=TASK,
        library_name=library,
        tags=list(_TAGS[library]),
    )


def training_corpora(card: Card) -> list[str]:
    """Return the names of the corpora that the model learned from, or that chose its settings."""
    return [
        source.name
        for source in card.data
        if not source.utterances
        or any(count for split, count in source.utterances.items() if split != "test")
    ] or [card.corpus]


def is_score(measure: str) -> bool:
    """Return whether an entry of a card's scores is a score, and no count and no end of an interval."""
    return not measure.startswith(("utterances", "speakers")) and not measure.endswith(("_low", "_high"))


def _results(card: Card) -> Iterator["EvalResult"]:
    from huggingface_hub import EvalResult

    for part, values in card.scores.items():
        corpus, _, split = part.rpartition("/")
        for measure, value in values.items():
            if not is_score(measure):
                continue
            metric, name = _metric(measure)
            yield EvalResult(
                task_type=TASK,
                task_name="Speech emotion recognition",
                dataset_type=corpus or card.corpus,
                dataset_name=corpus or _joined_name(card, list(card.scores), split),
                dataset_split=split,
                metric_type=metric,
                metric_name=name,
                metric_value=round(value, 4),
                verified=False,
            )


def _metric(measure: str) -> tuple[str, str]:
    """Return the metric id of the hub, or our own where the hub has none, and the name of a measure."""
    if measure.startswith("ccc_"):
        return "ccc", f"CCC of {measure.removeprefix('ccc_')}"
    return _METRICS.get(measure, (measure, measure))


def _joined_name(card: Card, parts: Sequence[str], split: str) -> str:
    """Return the name of a split over all corpora, which a card may also divide by corpus."""
    is_divided = any(part.endswith(f"/{split}") for part in parts)
    return f"{card.corpus} (all corpora)" if is_divided else card.corpus
