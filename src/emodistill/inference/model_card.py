"""The card of an exported model: what it is, where it came from, what it can do and where it fails.

`card.json` lies beside `model.onnx`, is checked before the model is run, and is written out for people as
`README.md`, in the form that model hubs show.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emodistill.errors import ModelError

BUNDLED = Path(str(files("emodistill"))) / "assets" / "bundled"  # the model that comes with the package
METADATA = "emodistill"  # the key in an ONNX file's metadata under which the student's description is
MODEL_FILES = ("card.json", "model.onnx")  # what an exported model cannot do without


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CoveragePoint(_Frozen):
    """One point of the risk–coverage curve: what answering only above a confidence brings."""

    min_confidence: float  # answer only at this confidence or above
    coverage: float  # the share of utterances that is then answered
    accuracy: float  # the share of those answers that is right


class DataSource(_Frozen):
    """One corpus that the model learned from or was tested on."""

    name: str
    licence: str = "not stated"
    language: str | None = None  # ISO 639-1
    utterances: dict[str, int] = {}  # split -> count
    url: str | None = None  # of the corpus, or its publication


class Card(_Frozen):
    """What an exported model is: enough to run it, to trust it, and to know where it came from."""

    format: Literal[1] = 1
    name: str
    emotions: tuple[str, ...]
    sample_rate_hz: Literal[16000] = 16000
    trim_db: float | None  # silence at both ends below this is cut before the model hears it
    sha256: str  # of model.onnx
    precision: Literal["fp32", "fp16", "int8"] = "fp32"  # of the stored weights
    quantisation: dict[str, float] = {}  # what precision cost and gave: agreement, ua_loss, speed_ratio…
    teachers: tuple[str, ...]  # whose embedding, and judgement, the model also puts out
    backbone: str
    num_parameters: int
    corpus: str
    data: tuple[DataSource, ...] = ()
    protocol: str  # the hash of the folds, and any leak that was allowed
    fold: str
    scores: dict[str, dict[str, float]]  # split, or corpus/split -> measure -> value, of these very weights
    # The graph puts out what the model says; who uses it divides its logits by the temperature.
    temperature: float = Field(1.0, gt=0)
    calibration: dict[str, float] = {}  # ece_before, ece_after, nll_…, utterances; test_… for the test split
    calibration_note: str = ""  # on what it was fitted
    coverage: tuple[CoveragePoint, ...] = ()  # on dev, by rising confidence
    parity: dict[str, float]  # largest difference to torch, over how many utterances
    versions: dict[str, str]
    licence: str = "That of the corpora it was trained on; see their terms before any use."
    limits: str = (
        "Acted emotions of few voices are not what people feel, and scores fall across corpora, languages, "
        "microphones and noise. Two voices at once, singing, children and long mixed recordings were not tested."
    )
    intended_use: str = (
        "Research and applications in which people know and agree that emotion is estimated. Not to be used "
        "at work or in education (EU AI Act, art. 5(1)(f)), nor as evidence of what a person feels."
    )

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of its corpora, each once."""
        return tuple(dict.fromkeys(source.language for source in self.data if source.language))


def known_ids(described: Mapping[str, Any]) -> frozenset[str]:
    """Every utterance that a model learned from, or was chosen by, as its description (`METADATA`) says."""
    return frozenset(described.get("training_ids", ())) | frozenset(described.get("dev_ids", ()))


def read_card(folder: Path) -> Card:
    """The card of an exported model, after checking that the folder is whole and unchanged.

    Raises `ModelError` that names the file, and the field where one is wrong.
    """
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise ModelError(
                f"'{folder}' is not an exported model: it has no {name}; make one with: emodistill export RUN"
            )
    what = f"'{folder / 'card.json'}' is not a model card of this version"
    try:
        card = Card.model_validate(json.loads((folder / "card.json").read_text(encoding="utf-8")))
    except ValidationError as error:
        problems = [
            ": ".join(filter(None, (".".join(map(str, item["loc"])), item["msg"]))) for item in error.errors()
        ]
        raise ModelError(f"{what}: {'; '.join(problems)}") from error
    except ValueError as error:  # neither JSON nor UTF-8
        raise ModelError(f"{what}: {error}") from error
    digest = file_sha256(folder / "model.onnx")
    if digest != card.sha256:
        raise ModelError(
            f"'{folder / 'model.onnx'}' was changed: its SHA-256 is {digest[:12]}…, the card says {card.sha256[:12]}…"
        )
    return card


def write_card(card: Card, folder: Path) -> None:
    """Write `card.json`, and `README.md` with the same for people."""
    (folder / "README.md").write_text(card_markdown(card), encoding="utf-8")
    (folder / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_markdown(card: Card) -> str:
    """A complete model card as Markdown, with the front matter that the Hugging Face Hub reads."""
    how = (
        "distilled from "
        + _and(f"{'an' if name[0] in 'aeiou' else 'a'} {name} teacher" for name in card.teachers)
        if card.teachers
        else "trained without a teacher"
    )
    size = f"{card.num_parameters / 1e6:.2f} M parameters, backbone `{card.backbone}`, stored in {card.precision}"
    sections = [
        _front_matter(card),
        f"# {card.name}\n\nSpeech emotion recognition from the waveform alone, {how} with "
        f"[EmoDistill](https://arxiv.org/abs/2309.04849). {size}.\n\n"
        f"Emotions: {_and(card.emotions)}.",
        "## Use\n\n```python\nfrom emodistill import Recognizer\n\n"
        'recognizer = Recognizer("FOLDER")  # or the id of this repository\n'
        'print(recognizer.predict("speech.wav"))\n```\n\n'
        "The model hears 16 kHz mono; the recogniser converts whatever it is given"
        + (
            f" and cuts silence {card.trim_db:g} dB below the loudest part off both ends"
            if card.trim_db
            else ""
        )
        + ".",
        f"## Intended use\n\n{card.intended_use}",
        f"## Limits\n\n{card.limits}",
        _data(card),
        _scores(card),
        _calibration(card),
        _origin(card),
        f"## Licence\n\n{card.licence}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _front_matter(card: Card) -> str:
    # A hub knows licences by their identifiers; a sentence is none.
    known = " " not in card.licence
    lines = [f"license: {json.dumps(card.licence.lower() if known else 'other')}"]
    if not known:
        lines.append("license_name: see-below")
    if card.languages:
        lines += ["language:", *(f"- {json.dumps(name)}" for name in card.languages)]  # quoted: `no` is false
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
    return "## Data\n\nUtterances by split.\n\n" + _table(["corpus", "language", *splits, "licence"], rows)


def _scores(card: Card) -> str:
    parts = []
    for split, values in card.scores.items():
        for measure, value in values.items():
            if measure.endswith(("_low", "_high")) or measure in ("utterances", "speakers"):
                continue
            low, high = values.get(f"{measure}_low"), values.get(f"{measure}_high")
            interval = "" if low is None or high is None else f"{100 * low:.1f} … {100 * high:.1f}"
            counts = [
                f"{values[count]:.0f}" if count in values else "–" for count in ("utterances", "speakers")
            ]
            parts.append([split, *counts, measure.upper().replace("_", "-"), f"{100 * value:.1f}", interval])
    if not parts:
        return ""
    return (
        "## Scores\n\nOf these very weights, in %. UA is mean per-class recall, WA is accuracy; an interval is the "
        "95 % one, by bootstrap over speakers, and too narrow where they are few.\n\n"
        + _table(["on", "utterances", "speakers", "measure", "value", "interval"], parts)
    )


def _calibration(card: Card) -> str:
    text = []
    if card.calibration:
        figures = [[name, f"{value:.4g}"] for name, value in card.calibration.items()]
        text.append(
            f"Logits are divided by a temperature of {card.temperature:.3f}. {card.calibration_note}".rstrip()
            + "\n\n" + _table(["figure", "value"], figures)
        )  # fmt: skip
    if card.coverage:
        rows = [
            [f"{point.min_confidence:.3f}", f"{100 * point.coverage:.0f}", f"{100 * point.accuracy:.1f}"]
            for point in card.coverage
        ]
        text.append(
            "What answering only above a confidence brings, on dev, in %:\n\n"
            + _table(["least confidence", "answered", "of these right"], rows)
        )
    return "## Calibration and abstention\n\n" + "\n\n".join(text) if text else ""


def _origin(card: Card) -> str:
    parity = max(card.parity.get("alone", 0.0), card.parity.get("batched", 0.0))
    lines = [
        f"- trained on: {card.corpus}, fold {card.fold}, protocol {card.protocol}",
        f"- differs from torch by at most {parity:.1e} over {card.parity.get('utterances', 0):.0f} utterances",
        *(f"- {name}: {value:.4g}" for name, value in card.quantisation.items()),
        *(
            [
                f"- **warning**: int8 was slower than fp32 where it was made, "
                f"{card.quantisation['int8_ms_per_s']:.2f} against {card.quantisation['fp32_ms_per_s']:.2f} ms for a "
                "second of audio on one thread"
            ]
            if card.quantisation.get("speed_ratio", 1.0) < 1
            else []
        ),
        f"- made with: {', '.join(f'{name} {number}' for name, number in card.versions.items())}",
        f"- SHA-256 of model.onnx: `{card.sha256}`",
    ]
    return "## Where it came from\n\n" + "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
