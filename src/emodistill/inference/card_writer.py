"""Writes the card of an exported model: `card.json`, and `README.md` with the same content for people.

`README.md` has the form that model hubs show.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from emodistill.files import atomic_write
from emodistill.inference.dimensions import COORDINATES
from emodistill.inference.hub_metadata import LICENCE_FILE, has_licence_id, hub_card, is_score
from emodistill.inference.model_card import (
    GUESS_FACTOR,
    LIKELY_ACCURACY,
    MEANINGS,
    WEIGHTS,
    AccuracyPoint,
    Card,
    CoveragePoint,
    licence_text,
    why_no_interval,
)
from emodistill.labels import in_words


def write_card(card: Card, folder: Path) -> None:
    """Write `card.json`, and `README.md` with the same content for people.

    A licence that is a sentence is also written into `LICENSE`, which the hub links to. Raises
    `MissingExtraError` without huggingface_hub.
    """
    unused = None if card.dimensions else {"dimensions"}  # so that earlier versions can read the card
    write_readme(card, folder)
    with atomic_write(folder / "card.json") as partial:
        partial.write_text(card.model_dump_json(indent=1, exclude=unused) + "\n", encoding="utf-8")


def write_readme(card: Card, folder: Path, text: str | None = None) -> None:
    """Write `README.md`, and `LICENSE` for a licence that is a sentence.

    `text` is that of `README.md`; None: `card_markdown`. Raises `MissingExtraError` without huggingface_hub.
    """
    texts = {"README.md": card_markdown(card) if text is None else text}
    if has_licence_id(card):
        (folder / LICENCE_FILE).unlink(missing_ok=True)
    else:
        texts[LICENCE_FILE] = "\n".join(wrap(licence_text(card), 100)) + "\n"
    for name, content in texts.items():
        with atomic_write(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")


def card_markdown(card: Card) -> str:
    """Return a model card as Markdown, with the metadata that the Hugging Face Hub reads.

    Raises `MissingExtraError` without huggingface_hub.
    """
    trimming = ""
    if card.trim_db:
        trimming = f", and cuts silence {card.trim_db:g} dB below the loudest part off both ends"
    sections = [
        _title(card, card.precision),
        _licence(card) if card.external else "",  # Its weights have two owners, so it stands first.
        "## Use\n\n```python\nfrom emodistill import Recognizer\n\n"
        'recognizer = Recognizer("FOLDER")  # or the id of this repository\n'
        'print(recognizer.predict("speech.wav"))\n```\n\n'
        f"The recogniser converts all audio to 16 kHz mono{trimming}.",
        f"## Intended use\n\n{card.intended_use}",
        f"## Limits\n\n{card.limits}",
        _data(card),
        _scores(card),
        _calibration(card),
        _head_dimensions(card) if card.dimensions else _computed_dimensions(card),
        _origin(card),
        "" if card.external else _licence(card),
    ]
    return hub_card(card, _joined(sections))


def transformers_markdown(card: Card, largest_difference: float, num_waveforms: int) -> str:
    """Return the card of a folder for transformers, as Markdown with the metadata of the hub.

    `card` is that of the exported model, from whose graph the probabilities differ by at most
    `largest_difference`. Raises `MissingExtraError` without huggingface_hub.
    """
    trimming = ""
    if card.trim_db:
        trimming = f" It cuts silence {card.trim_db:g} dB below the loudest part off both ends."
    sections = [
        _title(card, "fp32"),
        _licence(card),  # First, because people rely on the first page.
        "## Use\n\n```python\nfrom transformers import pipeline\n\n"
        "import emodistill.integrations.transformers  # noqa: F401\n\n"
        'recognise = pipeline("audio-classification", model="FOLDER")  # or the id of this repository\n'
        'print(recognise("speech.wav", top_k=None))\n```\n\n'
        "Where EmoDistill is not installed, leave out its import and add `trust_remote_code=True`: the code "
        "of the model is in `modeling_emodistill.py`.\n\n"
        "Each input is one utterance of at most 20 s, mono; the pipeline resamples it to 16 kHz. The feature "
        f"extractor removes the DC offset.{trimming} It does not search for speech, and it does not shorten "
        "pauses. The recogniser of EmoDistill does both, so its answers for recordings with pauses differ.",
        f"## Intended use\n\n{card.intended_use}",
        f"## Limits\n\n{card.limits}",
        _data(card),
        _scores(card),
        _calibration(card, with_answers=False),
        _head_dimensions(card) if card.dimensions else "",
        f"## Origin\n\n- trained on: {card.corpus}, fold {card.fold}, protocol {card.protocol}\n"
        f"- probabilities differ from those of the ONNX model by at most {largest_difference:.1e} over "
        f"{num_waveforms} waveforms, alone and in padded batches\n"
        f"- SHA-256 of that model.onnx{_and_weights(card)}: `{card.sha256}`",
    ]
    return hub_card(card, _joined(sections), "transformers")


def _joined(sections: Sequence[str]) -> str:
    return "\n\n".join(filter(None, sections)) + "\n"


def _title(card: Card, precision: str) -> str:
    method = "trained without a teacher"
    if card.teachers:
        teachers = (f"{'an' if name[0] in 'aeiou' else 'a'} {name} teacher" for name in card.teachers)
        method = f"distilled from {in_words(teachers)}"
    return (
        f"# {card.name}\n\nSpeech emotion recognition from the waveform alone, {method} with "
        f"[EmoDistill](https://arxiv.org/abs/2309.04849). {card.num_parameters / 1e6:.2f} M parameters, "
        f"backbone `{card.backbone}`, stored in {precision}.\n\n{_predictions(card)}"
    )


def _licence(card: Card) -> str:
    return f"## Licence\n\n{licence_text(card)}"


def _and_weights(card: Card) -> str:
    return f" and {WEIGHTS}" if card.external else ""


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
            if not is_score(measure) or measure.startswith("ccc_"):
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
    if "agreement" not in figures:
        return ""
    return (
        "\n\nThe scores of test are through the recogniser: from the audio files, with the speech detector. "
        f"It gives no emotion for {figures['unanswered']:.0f} of {figures['utterances']:.0f} utterances, "
        f"which count as wrong. {100 * figures['agreement']:.1f} % of its emotions equal those that the "
        f"trained student predicts in cross-validation, with a UA of {100 * figures['ua_crossval']:.1f} %."
    )


def _calibration(card: Card, with_answers: bool = True) -> str:
    """The temperature, and with `with_answers` what the recogniser derives from a confidence."""
    parts = []
    if card.calibration:
        figures = [[name, f"{value:.4g}"] for name, value in card.calibration.items()]
        temperature = f"The logits are divided by a temperature of {card.temperature:.3f}."
        if card.temperature_voice is not None:
            temperature += f" With a voice, they are divided by {card.temperature_voice:.3f}."
        parts.append(
            f"{temperature} {card.calibration_note}".rstrip() + "\n\n" + _table(["figure", "value"], figures)
        )
    if not with_answers:
        return "## Calibration\n\n" + "\n\n".join(parts) if parts else ""
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


def _predictions(card: Card) -> str:
    """What the model predicts, in one or two sentences."""
    if not card.dimensions:
        return f"Emotions: {in_words(card.emotions)}."
    dimensions = f"Dimensions: {in_words(card.dimensions)}, each from 0 to 1."
    if card.emotions:
        return f"Emotions: {in_words(card.emotions)}. {dimensions}"
    return (
        f"{dimensions} It predicts no emotions, so it has no confidence, and it makes neither timelines nor "
        "streams: it recognises one utterance at a time."
    )


def _head_dimensions(card: Card) -> str:
    """The meaning, the origin and the scores of the dimensions that a head predicts."""
    rows = []
    for split, values in card.scores.items():
        for name in card.dimensions:
            if (ccc := values.get(f"ccc_{name}")) is None:
                continue
            low, high = values.get(f"ccc_{name}_low"), values.get(f"ccc_{name}_high")
            interval = why_no_interval(round(values["speakers"])) or ""
            if low is not None and high is not None:
                interval = f"{low:.3f} … {high:.3f}"
            rows.append([split, f"{values[f'utterances_{name}']:.0f}", name, f"{ccc:.3f}", interval])
    meanings = "\n".join(f"- {name}: {MEANINGS[name]}" for name in card.dimensions)
    text = (
        "## Dimensions\n\nA head of the model predicts them from the sound, in the units of the training "
        f"labels, scaled to 0 … 1. They are not computed from the emotions.\n\n{meanings}"
    )
    if not rows:
        return text
    note = f" {card.scores_note}" if card.scores_note and not card.emotions else ""
    return (
        f"{text}\n\nThe CCC is Lin's concordance correlation coefficient of predictions and labels: 1 where "
        "they are equal, 0 where they are unrelated. The interval is the 95 % interval of a bootstrap over "
        f"speakers.{_dimensions_through_recogniser(card)}{note}\n\n"
        + _table(["split", "utterances", "dimension", "CCC", "interval"], rows)
    )


def _dimensions_through_recogniser(card: Card) -> str:
    figures = card.through_recogniser
    if "dimension_change" not in figures:
        return ""
    return (
        " The scores of test are through the recogniser: from the audio files, with the speech detector. It "
        f"finds no speech in {figures['dimension_unanswered']:.0f} of {figures['dimension_utterances']:.0f} "
        "utterances, which do not count. Its values differ from those of the trained student by at most "
        f"{figures['dimension_change']:.3f} on average."
    )


def _computed_dimensions(card: Card) -> str:
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
    outputs = "probabilities" if card.emotions else "dimensions"
    lines = [
        f"- trained on: {card.corpus}, fold {card.fold}, protocol {card.protocol}",
        f"- {outputs} differ from torch by at most {parity:.1e} over "
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
        f"- SHA-256 of model.onnx{_and_weights(card)}: `{card.sha256}`",
    ]
    return "## Origin\n\n" + "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
