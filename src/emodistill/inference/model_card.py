"""The card of an exported model: its origin, its scores, its limits, and what the recogniser needs to run it.

`card.json` is beside `model.onnx`, and is checked before the model runs. `card_writer` writes it.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emodistill.errors import ModelError, field_messages
from emodistill.reading import json_object, read_json

BUNDLED = Path(str(files("emodistill"))) / "assets" / "bundled"  # the model that comes with the package
METADATA = "emodistill"  # the metadata key of an ONNX file that holds the student's description
MODEL_FILES = ("card.json", "model.onnx")  # without both, a folder is not an exported model
MAX_DESCRIPTION_BYTES = 2**28  # it lists the ids of the training utterances
WEIGHTS = "weights.bin"  # beside model.onnx, where its weights are external
HEAD = "head.onnx"  # a model with voices has it too: statistics and a voice in, the outputs of model.onnx out
LIKELY_ACCURACY = 0.75  # answers that are right at least this often are "likely"
MEANINGS = {  # dimension -> what 0 and 1 stand for
    "arousal": "from calm (0) to excited (1)",
    "valence": "from unpleasant (0) to pleasant (1)",
    "dominance": "from submissive (0) to in control (1)",
    "intensity": "from a weak (0) to a strong (1) emotion, as actors were asked to show it",
}
MIN_SPEAKERS = 5  # with fewer, a score has no interval
GUESS_FACTOR = 1.5  # answers that are right less often than this times chance are "no better than a guess"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CoveragePoint(_Frozen):
    """One point of the risk–coverage curve: the answers at or above a confidence."""

    min_confidence: float  # the lowest confidence of an answer
    coverage: float  # the share of utterances that get an answer
    accuracy: float  # the share of these answers that are correct


class AccuracyPoint(_Frozen):
    """One point of the table of accuracy by confidence."""

    confidence: float  # the mean confidence of some answers
    accuracy: float  # the share of these answers that are correct; it never falls as the confidence rises


class DataSource(_Frozen):
    """One corpus that the model was trained or tested on."""

    name: str
    licence: str = "not stated"
    language: str | None = None  # ISO 639-1
    utterances: dict[str, int] = {}  # split -> count
    url: str | None = None  # of the corpus, or of its publication


class ExternalWeights(_Frozen):
    """Published weights that model.onnx reads from `weights.bin`, which `emodistill fetch` makes."""

    source: str  # the model on the Hugging Face Hub, e.g. "openai/whisper-base"
    licence: str  # of these weights, with their owner


class Card(_Frozen):
    """The content of `card.json`."""

    format: Literal[1] = 1
    name: str
    emotions: tuple[str, ...]  # in the order of the probabilities; empty: the model predicts dimensions alone
    # That a head of the model predicts, each from 0 to 1, in the order of the output `dimensions`. Empty: the
    # model has no such head, and arousal and valence are computed from the emotions.
    dimensions: tuple[Literal["arousal", "valence", "dominance", "intensity"], ...] = ()
    sample_rate_hz: Literal[16000] = 16000
    trim_db: float | None  # silence at both ends that is cut before the model runs: this far below the peak
    sha256: str  # of model.onnx; with external weights, of model.onnx and weights.bin joined in this order
    external: ExternalWeights | None = None  # None: model.onnx holds all weights
    precision: Literal["fp32", "fp16", "int8"] = "fp32"  # of the stored weights
    quantisation: dict[str, float] = {}  # the effects of the precision: agreement, ua_loss, speed_ratio…
    voice_dim: int | None = None  # the size of a voice; None: the model has no voices
    head_sha256: str | None = None  # of head.onnx, which a model with voices has
    temperature_voice: float | None = Field(None, gt=0)  # with a voice; None: as without one
    teachers: tuple[str, ...]  # whose embeddings, and perhaps probabilities, the graph also returns
    backbone: str
    num_parameters: int
    corpus: str
    data: tuple[DataSource, ...] = ()
    protocol: str  # the hash of the folds, and any leak that was allowed
    fold: str
    scores: dict[str, dict[str, float]]  # split, or corpus/split -> measure -> value, of these weights
    scores_note: str = ""  # whose scores they are, or how the recipe was chosen; empty: of these weights
    # Set where the scores of test are those of this file through the recogniser: utterances, unanswered,
    # agreement with the predictions after training (crossval), ua_crossval, ua_recogniser; and of a head for
    # dimensions: dimension_utterances, dimension_unanswered, dimension_change.
    through_recogniser: dict[str, float] = {}
    # The graph returns probabilities at temperature 1; the recogniser divides the logits by this.
    temperature: float = Field(1.0, gt=0)
    # ece_before, ece_after (calibration errors, see `evaluation.calibration`), nll_…, utterances; test_… for
    # the test split, voice_… for predictions with known utterances.
    calibration: dict[str, float] = {}
    calibration_note: str = ""  # the data that the temperature was fitted on
    coverage: tuple[CoveragePoint, ...] = ()  # on the utterances of `calibration_note`, by rising confidence
    coverage_voice: tuple[CoveragePoint, ...] = ()  # the same with known utterances of the speaker
    # How often answers of a confidence are correct, by rising confidence, on the utterances of
    # `calibration_note`: without a voice, and with known utterances of the speaker.
    accuracy: tuple[AccuracyPoint, ...] = ()
    accuracy_voice: tuple[AccuracyPoint, ...] = ()
    parity: dict[str, float]  # the largest difference from torch, and the number of utterances
    versions: dict[str, str]
    licence: str = "The licences of the training corpora apply: read their terms before any use."
    limits: str = (
        "Acted emotions of few speakers differ from emotions that people feel. Scores are lower on other "
        "corpora, languages and microphones, and in noise. Two voices at once, singing, children and long "
        "mixed recordings were not tested."
    )
    intended_use: str = (
        "Research, and applications in which people know and agree that their emotion is estimated. Not for "
        "use at work or in education (EU AI Act, art. 5(1)(f)), and not as evidence of what a person feels."
    )

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of its corpora, each once."""
        return tuple(dict.fromkeys(source.language for source in self.data if source.language))


def why_no_interval(num_speakers: int) -> str | None:
    """Return why a score over so many speakers has no interval, or None where it has one."""
    if num_speakers >= MIN_SPEAKERS:
        return None
    speakers = "1 speaker" if num_speakers == 1 else f"{num_speakers} speakers"
    return f"no interval: {speakers}, {MIN_SPEAKERS} needed"


def known_ids(description: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of the utterances in training or dev of a model, from its description (`METADATA`)."""
    return frozenset(description.get("training_ids", ())) | frozenset(description.get("dev_ids", ()))


def pack_description(description: Mapping[str, Any]) -> str:
    """Return a student's description as short text: JSON, compressed by zlib, in base 85."""
    text = json.dumps(description, ensure_ascii=False)
    return base64.b85encode(zlib.compress(text.encode(), level=9)).decode()


def read_description(text: str) -> dict[str, Any]:
    """Return a student's description from the metadata of its ONNX file: JSON, or `pack_description`'s.

    Raises `ModelError` for any other text, and for one that unpacks to over `MAX_DESCRIPTION_BYTES`.
    """
    problem = "the model's file has a damaged description of its student"
    content = text.encode(errors="replace")
    if not text.startswith("{"):  # No base 85 text begins so, because zlib's first byte is fixed.
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(base64.b85decode(content), MAX_DESCRIPTION_BYTES)
        except (ValueError, zlib.error) as error:
            raise ModelError(f"{problem}: {error}") from error
        if unpacker.unconsumed_tail:
            raise ModelError(f"{problem}: it unpacks to over {MAX_DESCRIPTION_BYTES} bytes")
    description = json_object(content, ModelError, problem)
    for name in ("emotions", "dimensions", "training_ids", "dev_ids"):
        listed = description.get(name, [])
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise ModelError(f"{problem}: '{name}' is no list of texts")
    return description


def read_card(folder: Path) -> Card:
    """Return the card of an exported model, and check that the folder is complete and unchanged.

    Raises `ModelError`, with the name of the file, and of the field if one is invalid.
    """
    card = read_unchecked_card(folder)
    if card.external is not None and not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"'{folder}' has no {WEIGHTS}, the weights of {card.external.source}: run 'emodistill fetch'"
        )
    hashed = ("model.onnx",) if card.external is None else ("model.onnx", WEIGHTS)
    check_sha256([folder / name for name in hashed], card.sha256)
    return card


def read_unchecked_card(folder: Path) -> Card:
    """Return the card of an exported model without reading the model itself.

    Raises `ModelError` if `MODEL_FILES` are missing or the card is invalid.
    """
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise ModelError(
                f"'{folder}' is not an exported model: it has no {name}; make one with: emodistill export RUN"
            )
    problem = "is not a model card of this version"
    data = read_json(folder / "card.json", ModelError, problem)
    try:
        return Card.model_validate(data)
    except ValidationError as error:
        messages = "; ".join(field_messages(error.errors()))
        raise ModelError(f"'{folder / 'card.json'}' {problem}: {messages}") from error


def check_sha256(paths: Sequence[Path], expected: str | None) -> None:
    """Raise `ModelError` if files of a model, joined, do not have the SHA-256 that the card states."""
    digest = file_sha256(*paths)
    if digest != expected:
        stated = "none" if expected is None else f"{expected[:12]}…"
        names = " or ".join(f"'{path}'" for path in paths)
        raise ModelError(
            f"{names} was changed: its SHA-256 is {digest[:12]}…, the card states {stated}; "
            "export, download or fetch the model again"
        )


def file_sha256(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of several files joined, in hex."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def model_bytes(folder: Path) -> int:
    """Return the size of `model.onnx`, of the head and of the external weights that the folder holds."""
    return sum(
        (folder / name).stat().st_size for name in ("model.onnx", HEAD, WEIGHTS) if (folder / name).is_file()
    )


def licence_text(card: Card) -> str:
    """Return the licence of a model's weights, and of its external weights where it has any."""
    if card.external is None:
        return card.licence
    external = card.external
    return f"{card.licence} The weights of the backbone are those of {external.source}: {external.licence}."
