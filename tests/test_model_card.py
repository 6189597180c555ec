"""The card of a model: defaults, fields that are refused, and the page for people."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emodistill.errors import MissingExtraError
from emodistill.inference.card_writer import card_markdown, write_card
from emodistill.inference.hub_metadata import hub_card
from emodistill.inference.model_card import (
    BUNDLED,
    Card,
    DataSource,
    licence_text,
    read_card,
    read_unchecked_card,
)

PLAIN: dict[str, Any] = {  # the fields without a default, and a few more
    "format": 1, "name": "old", "emotions": ["angry", "sad"], "sample_rate_hz": 16000, "trim_db": 35.0,
    "sha256": "0" * 64, "teachers": ["prosodic"], "backbone": "compact", "num_parameters": 450632,
    "corpus": "ravdess", "protocol": "058465cfd161", "fold": "1",
    "scores": {"test": {"ua": 0.645, "wa": 0.65}},
    "parity": {"alone": 6.8e-7, "batched": 9.5e-7, "utterances": 64.0, "tolerance": 1e-4},
    "versions": {"emodistill": "0.1.0"},
}  # fmt: skip
FULL = Card.model_validate(
    {
        **PLAIN, "name": "full", "precision": "int8", "quantisation": {"agreement": 0.99, "speed_ratio": 2.1},
        "temperature": 1.7, "calibration": {"ece_before": 0.12, "ece_after": 0.03, "utterances": 240.0},
        "calibration_note": "Fitted on the 240 dev utterances of 4 speakers.",
        "coverage": [{"min_confidence": 0.0, "coverage": 1.0, "accuracy": 0.65},
                     {"min_confidence": 0.62, "coverage": 0.5, "accuracy": 0.83}],
        "data": [{"name": "ravdess", "licence": "CC BY-NC-SA 4.0", "language": "en",
                  "utterances": {"train": 960, "dev": 240}, "url": "https://doi.org/10.5281/zenodo.1188976"},
                 {"name": "norsk", "language": "no", "utterances": {"test": 7}}],
        "scores": {
            "ravdess/test": {"utterances": 240, "speakers": 8, "ua": 0.645, "ua_low": 0.61, "ua_high": 0.68,
                             "macro_f1": 0.6}
        },
        "licence": "CC-BY-NC-SA-4.0", "limits": "Only acted speech.",
    }
)  # fmt: skip


def front_matter(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(front))


def test_a_card_without_calibration_means_temperature_1() -> None:
    card = Card.model_validate(PLAIN)
    assert (card.temperature, card.coverage, card.calibration, card.precision) == (1.0, (), {}, "fp32")
    assert card.limits


@settings(deadline=None)
@given(st.integers(1, 20))
def test_a_card_shows_an_interval_or_the_reason_why_there_is_none(speakers: int) -> None:
    scores = {"utterances": 240, "speakers": speakers, "ua": 0.8494, "ua_low": 0.846, "ua_high": 0.8491}
    text = card_markdown(FULL.model_copy(update={"scores": {"test": scores}}))
    if speakers < 5:
        assert "84.6 …" not in text
        assert f"no interval: {speakers} speaker{'s' if speakers > 1 else ''}, 5 needed" in text
    else:
        assert "| 84.6 … 84.9 |" in text


def test_a_card_is_equal_after_writing_and_reading(tmp_path: Path) -> None:
    write_card(FULL, tmp_path)
    assert Card.model_validate(json.loads((tmp_path / "card.json").read_text())) == FULL
    assert (tmp_path / "README.md").read_text() == card_markdown(FULL)


def test_a_slower_int8_gives_a_warning_with_both_times() -> None:
    figures = {"agreement": 0.99, "speed_ratio": 0.8, "int8_ms_per_s": 5.0, "fp32_ms_per_s": 4.0}
    slower = FULL.model_copy(update={"quantisation": figures})
    warning = (
        "int8 was slower than fp32 on the machine of the export: 5.00 against 4.00 ms for one second of audio"
    )
    assert warning in card_markdown(slower)
    assert "slower" not in card_markdown(FULL)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0), ("temperature", -1.0), ("precision", "int4"), ("coverage", [{"coverage": 1}]),
     ("data", [{"name": "x", "license": "misspelt"}]), ("quantisation", {"agreement": "good"})],
)  # fmt: skip
def test_a_bad_field_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Card.model_validate({**PLAIN, field: value})


def test_the_page_has_every_part_of_the_card() -> None:
    text = card_markdown(FULL)
    for part in (
        "# full", "distilled from a prosodic teacher",
        "0.45 M parameters, backbone `compact`, stored in int8",
        "Emotions: angry and sad.", "silence 35 dB below", FULL.intended_use, "Only acted speech.",
        "| [ravdess](https://doi.org/10.5281/zenodo.1188976) | en | 960 | 240 | 0 | CC BY-NC-SA 4.0 |",
        "| norsk | no | 0 | 0 | 7 | not stated |", "| ravdess/test | 240 | 8 | UA | 64.5 | 61.0 … 68.0 |",
        "| ravdess/test | 240 | 8 | MACRO-F1 | 60.0 |  |",
        "a temperature of 1.700. Fitted on the 240 dev utterances",
        "| ece_before | 0.12 |", "| 0.620 | 50 | 83.0 |", "at most 9.5e-07 over 64 utterances",
        "- agreement: 0.99", "emodistill 0.1.0", "0" * 64,
    ):  # fmt: skip
        assert part in text, part
    assert "UA_LOW" not in text.upper().replace("-", "_")
    widths = {}
    for line in text.splitlines():  # every table is rectangular
        if line.startswith("|"):
            widths.setdefault(line.count("|"), []).append(line)
    assert all("---" in "".join(lines) for lines in widths.values())


def test_a_hub_reads_the_front_matter() -> None:
    front = front_matter(card_markdown(FULL))
    assert front["license"] == "cc-by-nc-sa-4.0"
    assert front["language"] == ["en", "no"], "Norwegian is not false"
    assert front["pipeline_tag"] == "audio-classification"
    assert "speech-emotion-recognition" in front["tags"]
    plain = front_matter(card_markdown(Card.model_validate(PLAIN)))
    assert (plain["license"], plain["license_name"]) == ("other", "see-below")
    assert "language" not in plain


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.sampled_from(["test", "dev", "ravdess/test", "no/test", "a b/crossval"]),
        st.dictionaries(st.sampled_from(["ua", "wa", "macro_f1", "ccc_arousal", "ccc_valence", "ua_low"]),
                        st.floats(-1, 1)),
    )
)  # fmt: skip
def test_the_library_of_the_hub_reads_every_score(scores: dict[str, dict[str, float]]) -> None:
    card = FULL.model_copy(update={"scores": scores})
    data = ModelCard(hub_card(card, "# A model\n")).data
    found = {
        (item.dataset_type, item.dataset_split, item.metric_name): item.metric_value
        for item in data.eval_results or []
    }
    names = {"ua": "UA (mean recall of the emotions)", "wa": "WA (accuracy)", "macro_f1": "macro F1",
             "ccc_arousal": "CCC of arousal", "ccc_valence": "CCC of valence"}  # fmt: skip
    expected = {
        (split.rpartition("/")[0] or card.corpus, split.rpartition("/")[2], names[measure]): value
        for split, values in scores.items()
        for measure, value in values.items()
        if measure in names
    }
    assert found == pytest.approx(expected, abs=1e-4)
    assert all(item.verified is False for item in data.eval_results or [])
    assert set(data.metrics or []) == {item.metric_type for item in data.eval_results or []}


@pytest.mark.parametrize("name", ["bundled", "large"])
def test_the_library_of_the_hub_reads_the_cards_of_the_package(name: str, tmp_path: Path) -> None:
    folder = BUNDLED.parent / name
    card = read_unchecked_card(folder)
    metadata = metadata_load(folder / "README.md")
    assert metadata is not None
    data = ModelCardData(**metadata)
    assert data.to_dict() == metadata
    model_name, results = model_index_to_eval_results(metadata["model-index"])
    assert (model_name, len(results)) == (card.name, 3 * len(card.scores))
    (of_ravdess,) = (
        item for item in results if (item.dataset_type, item.metric_type) == ("ravdess", "recall")
    )
    assert of_ravdess.metric_value == pytest.approx(card.scores["ravdess/test"]["ua"], abs=1e-4)
    assert data.datasets == [source.name for source in card.data]
    assert (data.library_name, data.license, data.license_name) == ("emodistill", "other", "see-below")
    assert data.license_link == "LICENSE"
    assert (folder / "LICENSE").read_text(encoding="utf-8").split() == licence_text(card).split()


def test_a_test_corpus_is_no_training_data() -> None:
    assert ModelCard(card_markdown(FULL)).data.datasets == ["ravdess"]
    assert ModelCard(card_markdown(Card.model_validate(PLAIN))).data.datasets == ["ravdess"]


def test_a_licence_with_an_identifier_needs_no_file(tmp_path: Path) -> None:
    write_card(Card.model_validate(PLAIN), tmp_path)
    assert (tmp_path / "LICENSE").is_file()
    write_card(FULL, tmp_path)
    assert not (tmp_path / "LICENSE").exists()
    assert ModelCard.load(tmp_path / "README.md").data.license == "cc-by-nc-sa-4.0"


def test_without_the_library_of_the_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'emodistill\[hub\]'"):
        card_markdown(FULL)


def test_the_page_leaves_out_empty_parts() -> None:
    text = card_markdown(Card.model_validate({**PLAIN, "teachers": [], "scores": {}, "trim_db": None}))
    assert "trained without a teacher" in text
    assert "## Data\n\nravdess." in text
    for part in ("## Scores", "## Calibration", "silence"):
        assert part not in text


def test_an_exported_card_counts_the_utterances_of_each_split(exported: Path) -> None:
    card = read_card(exported)
    (source,) = card.data
    assert source == DataSource(name="fake", utterances={"train": 12, "dev": 12, "test": 12})
    assert card.coverage[0].coverage == 1
    assert card.coverage[0].min_confidence >= 1 / len(card.emotions)
    assert (exported / "README.md").read_text() == card_markdown(card)
