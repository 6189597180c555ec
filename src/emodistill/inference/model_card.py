"""The card of an exported model: its origin, its scores, its limits, and what the recogniser needs to run it.

`card.json` is beside `model.onnx`, and is checked before the model runs. `README.md` has the same content for
people, in the form that model hubs show.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emodistill.errors import ModelError, field_messages
from emodistill.files import atomic_write
from emodistill.inference.dimensions import COORDINATES

BUNDLED = Path(str(files("emodistill"))) / "assets" / "bundled"  # the model that comes with the package
METADATA = "emodistill"  # the metadata key of an ONNX file that holds the student's description
MODEL_FILES = ("card.json", "model.onnx")  # without both, a folder is not an exported model
WEIGHTS = "weights.bin"  # beside model.onnx, where its weights are external
HEAD = "head.onnx"  # a model with voices has it too: statistics and a voice in, the outputs of model.onnx out
LIKELY_ACCURACY = 0.75  # answers that are right at least this often are "likely"
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
    emotions: tuple[str, ...]  # in the order of the probabilities
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
    # agreement with the predictions after training (crossval), ua_crossval, ua_recogniser.
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
    """Return a student's description from the metadata of its ONNX file: JSON, or `pack_description`'s."""
    if not text.startswith("{"):  # No base 85 text begins so, because zlib's first byte is fixed.
        text = zlib.decompress(base64.b85decode(text)).decode()
    return dict(json.loads(text))


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
    problem = f"'{folder / 'card.json'}' is not a model card of this version"
    try:
        return Card.model_validate(json.loads((folder / "card.json").read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ModelError(f"{problem}: {'; '.join(field_messages(error.errors()))}") from error
    except ValueError as error:  # neither JSON nor UTF-8
        raise ModelError(f"{problem}: {error}") from error


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


def write_card(card: Card, folder: Path) -> None:
    """Write `card.json`, and `README.md` with the same content for people."""
    for name, text in (
        ("README.md", card_markdown(card)),
        ("card.json", card.model_dump_json(indent=1) + "\n"),
    ):
        with atomic_write(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


def file_sha256(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of several files joined, in hex."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def card_markdown(card: Card) -> str:
    """Return a model card as Markdown, with the front matter that the Hugging Face Hub reads."""
    method = "trained without a teacher"
    if card.teachers:
        teachers = (f"{'an' if name[0] in 'aeiou' else 'a'} {name} teacher" for name in card.teachers)
        method = f"distilled from {_join(teachers)}"
    size = f"{card.num_parameters / 1e6:.2f} M parameters"
    trimming = ""
    if card.trim_db:
        trimming = f", and cuts silence {card.trim_db:g} dB below the loudest part off both ends"
    licence = f"## Licence\n\n{licence_text(card)}"
    sections = [
        _front_matter(card),
        f"# {card.name}\n\nSpeech emotion recognition from the waveform alone, {method} with "
        f"[EmoDistill](https://arxiv.org/abs/2309.04849). {size}, backbone `{card.backbone}`, stored in "
        f"{card.precision}.\n\n"
        f"Emotions: {_join(card.emotions)}.",
        licence if card.external else "",  # Its weights have two owners, so it stands first.
        "## Use\n\n```python\nfrom emodistill import Recognizer\n\n"
        'recognizer = Recognizer("FOLDER")  # or the id of this repository\n'
        'print(recognizer.predict("speech.wav"))\n```\n\n'
        f"The recogniser converts all audio to 16 kHz mono{trimming}.",
        f"## Intended use\n\n{card.intended_use}",
        f"## Limits\n\n{card.limits}",
        _data(card),
        _scores(card),
        _calibration(card),
        _dimensions(card),
        _origin(card),
        "" if card.external else licence,
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


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


def _front_matter(card: Card) -> str:
    # A hub knows licences by identifiers such as cc-by-4.0. A licence with blanks is a sentence.
    is_identifier = " " not in card.licence
    lines = [f"license: {json.dumps(card.licence.lower() if is_identifier else 'other')}"]
    if not is_identifier:
        lines.append("license_name: see-below")
    if card.languages:
        # In quotes, because YAML reads a plain `no` (Norwegian) as false.
        lines += ["language:", *(f"- {json.dumps(name)}" for name in card.languages)]
    lines += ["pipeline_tag: audio-classification", "library_name: emodistill", "tags:"]
    lines += [f"- {tag}" for tag in ("speech-emotion-recognition", "knowledge-distillation", "onnx", "audio")]
    return "---\n" + "\n".join(lines) + "\n---"


def _data(card: Card) -> str:
    if not card.data:
        return f"## Data\n\n{card.corpus}."
    splits = list(dict.fromkeys(split for source in card.data for split in source.utterances))
    rows = [
        [
            f"[{source.name}]({source.url})" if source.url else source.name, source.language or "–",
            *(str(source.utterances.get(split, 0)) for split in splits), source.licence,
        ]
        for source in card.data
    ]  # fmt: skip
    table = _table(["corpus", "language", *splits, "licence"], rows)
    return f"## Data\n\nThe number of utterances in each split.\n\n{table}"


def _scores(card: Card) -> str:
    rows = []
    for split, values in card.scores.items():
        for measure, value in values.items():
            if measure.endswith(("_low", "_high")) or measure in ("utterances", "speakers"):
                continue
            low, high = values.get(f"{measure}_low"), values.get(f"{measure}_high")
            interval = "" if low is None or high is None else f"{100 * low:.1f} … {100 * high:.1f}"
            # A card of an earlier version may have an interval over too few speakers.
            if measure in ("ua", "wa") and "speakers" in values:
                interval = why_no_interval(round(values["speakers"])) or interval
            counts = [
                f"{values[count]:.0f}" if count in values else "–" for count in ("utterances", "speakers")
            ]
            rows.append([split, *counts, measure.upper().replace("_", "-"), f"{100 * value:.1f}", interval])
    if not rows:
        return ""
    whose = (
        f"{card.scores_note} The scores are in %."
        if card.scores_note
        else "The scores of these weights, in %."
    )
    return (
        f"## Scores\n\n{whose} UA is the mean per-class recall, WA is the "
        "accuracy. The interval is the 95 % interval of a bootstrap over speakers."
        + _through_recogniser(card)
        + "\n\n"
        + _table(["split", "utterances", "speakers", "measure", "value", "interval"], rows)
    )


def _through_recogniser(card: Card) -> str:
    figures = card.through_recogniser
    if not figures:
        return ""
    return (
        "\n\nThe scores of test are through the recogniser: from the audio files, with the speech detector. "
        f"It gives no emotion for {figures['unanswered']:.0f} of {figures['utterances']:.0f} utterances, "
        f"which count as wrong. {100 * figures['agreement']:.1f} % of its emotions equal those that the "
        f"trained student predicts in cross-validation, with a UA of {100 * figures['ua_crossval']:.1f} %."
    )


def _calibration(card: Card) -> str:
    parts = []
    if card.calibration:
        figures = [[name, f"{value:.4g}"] for name, value in card.calibration.items()]
        temperature = f"The logits are divided by a temperature of {card.temperature:.3f}."
        if card.temperature_voice is not None:
            temperature += f" With a voice, they are divided by {card.temperature_voice:.3f}."
        parts.append(
            f"{temperature} {card.calibration_note}".rstrip() + "\n\n" + _table(["figure", "value"], figures)
        )
    if card.coverage:
        parts.append(
            "With `min_confidence` the recogniser abstains from unsure answers. On the utterances that the "
            f"temperature was fitted on:\n\n{_coverage_table(card.coverage)}"
        )
    if card.coverage_voice:
        parts.append(f"With known utterances of the speaker:\n\n{_coverage_table(card.coverage_voice)}")
    if card.accuracy:
        parts.append(
            "`surety` is *likely* where answers of this confidence are correct in at least "
            f"{100 * LIKELY_ACCURACY:.0f} %, *no better than a guess* below "
            f"{100 * GUESS_FACTOR / len(card.emotions):.0f} % ({GUESS_FACTOR} times chance), and *unsure* "
            f"between.\n\n{_accuracy_table(card.accuracy)}"
        )
    if card.accuracy_voice:
        parts.append(f"With known utterances of the speaker:\n\n{_accuracy_table(card.accuracy_voice)}")
    return "## Calibration and abstention\n\n" + "\n\n".join(parts) if parts else ""


def _coverage_table(points: Sequence[CoveragePoint]) -> str:
    rows = [
        [f"{point.min_confidence:.3f}", f"{100 * point.coverage:.0f}", f"{100 * point.accuracy:.1f}"]
        for point in points
    ]
    return _table(["min_confidence", "answered, %", "correct of these, %"], rows)


def _accuracy_table(points: Sequence[AccuracyPoint]) -> str:
    rows = [[f"{point.confidence:.3f}", f"{100 * point.accuracy:.1f}"] for point in points]
    return _table(["confidence", "correct, %"], rows)


def _dimensions(card: Card) -> str:
    rows = [
        [emotion, *(f"{value:.3f}" for value in COORDINATES[emotion])]
        for emotion in card.emotions
        if emotion in COORDINATES
    ]
    if not rows:
        return ""
    return (
        "## Arousal and valence\n\nThe recogniser computes them from the probabilities p of the emotions e, "
        "as Σ p(e) · coordinate of e. The coordinates are the ratings of the emotions' words in the Glasgow "
        "Norms (Scott et al. 2019, https://doi.org/10.3758/s13428-018-1099-3, CC BY 4.0), on a scale from 0 "
        "to 1."
        "\n\n" + _table(["emotion", "arousal", "valence"], rows)
    )


def _origin(card: Card) -> str:
    parity = max(card.parity.get("alone", 0.0), card.parity.get("batched", 0.0))
    lines = [
        f"- trained on: {card.corpus}, fold {card.fold}, protocol {card.protocol}",
        f"- probabilities differ from torch by at most {parity:.1e} over "
        f"{card.parity.get('utterances', 0):.0f} utterances",
        *(f"- {name}: {value:.4g}" for name, value in card.quantisation.items()),
    ]
    if card.quantisation.get("speed_ratio", 1.0) < 1:
        int8_ms, fp32_ms = card.quantisation["int8_ms_per_s"], card.quantisation["fp32_ms_per_s"]
        lines.append(
            f"- **warning**: int8 was slower than fp32 on the machine of the export: {int8_ms:.2f} against "
            f"{fp32_ms:.2f} ms for one second of audio on one thread"
        )
    lines += [
        f"- exported with: {', '.join(f'{name} {number}' for name, number in card.versions.items())}",
        f"- SHA-256 of model.onnx{' and ' + WEIGHTS if card.external else ''}: `{card.sha256}`",
    ]
    return "## Origin\n\n" + "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _join(names: Iterable[str]) -> str:
    """Return names as a list in a sentence: "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
