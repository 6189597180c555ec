"""Dimensions of a corpus: which utterances a recipe gets, what it checks, and what the commands show."""

import json
from pathlib import Path
from typing import Any

import factories as make
import factories_corpora as fake
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from emodistill.config import CorpusConfig, Recipe, load_recipe
from emodistill.corpora import Corpus, Utterance, corpus_stats, open_corpus, read_manifest
from emodistill.corpora.load import CorpusSource
from emodistill.errors import ConfigError, CorpusError
from emodistill.evaluation.dimension_predictions import read_dimensions
from emodistill.evaluation.predictions import read_predictions
from emodistill.labels import DIMENSIONS
from emodistill.protocol import (
    Fold,
    Protocol,
    check_dimensions,
    count_dimensions,
    dimension_warnings,
)
from emodistill.protocol.dimensions import report_dimensions
from emodistill.training.cross_validation import crossval

Call = make.CommandLine
VAD = ("arousal", "valence", "dominance")


def table(tmp_path: Path, rows: str, header: str = "id,speaker,emotion,arousal,valence,scale") -> Path:
    path = tmp_path / "m.csv"
    path.write_text(f"{header}\n{rows}", encoding="utf-8")
    return path


def opened(path: Path, targets: tuple[str, ...], **settings: Any) -> tuple[Corpus, list[str]]:
    messages: list[str] = []
    return open_corpus(CorpusConfig(manifest=str(path), **settings), messages.append, targets), messages


# --- which utterances a recipe gets ---------------------------------------------------------------

MIXED = "1,a,sad,3,2,1..5\n2,a,,4,,1..5\n3,b,happy,,,\n4,b,angry,,1,1..5\n5,b,,,,\n"


@pytest.mark.parametrize(
    ("targets", "ids"),
    [
        (("emotion",), "134"),
        (("emotion", "arousal"), "1234"),
        (("arousal",), "12"),
        (("valence", "arousal"), "124"),
    ],
)
def test_the_targets_decide_which_utterances_are_used(
    targets: tuple[str, ...], ids: str, tmp_path: Path
) -> None:
    corpus, messages = opened(table(tmp_path, MIXED), targets)
    assert "".join(u.id for u in corpus) == ids
    assert len(corpus.labels) == (3 if "emotion" in targets else 0)
    assert sum(corpus.dropped.values()) == 5 - len(ids) == sum(int(m.split()[1]) for m in messages)


def test_dimensions_alone_have_no_emotions_and_votes(tmp_path: Path) -> None:
    header = "id,speaker,emotion,arousal,scale,votes"
    path = table(tmp_path, '1,a,sad,3,1..5,"{""sad"": 2}"\n', header)
    (utterance,) = opened(path, ("arousal",))[0]
    assert (utterance.emotion, utterance.votes, utterance.unit_dimensions()) == (None, None, {"arousal": 0.5})


def test_labels_and_maps_leave_out_emotions_but_no_utterance_without_one(tmp_path: Path) -> None:
    path = table(tmp_path, "1,a,sad,3,,1..5\n2,a,,4,,1..5\n3,b,angry,1,,1..5\n4,b,calm,1,,1..5\n")
    assert [u.id for u in opened(path, ("arousal",), labels="sad,angry")[0]] == ["1", "2", "3"]
    assert [u.id for u in opened(path, ("arousal",), emotions={"sad": "-"})[0]] == ["2", "3", "4"]


def test_iemocap_keeps_all_turns_for_dimensions_alone(tmp_path: Path) -> None:
    fake.iemocap(tmp_path)
    config = CorpusConfig(name="iemocap", root=str(tmp_path))
    for path in tmp_path.rglob("*.wav"):
        _write(path)
    assert len(open_corpus(config, print, VAD)) == 3
    both = open_corpus(config, print, ("emotion", *VAD))
    assert sorted(u.emotion or "" for u in both) == ["", "angry", "happy"]


def _write(path: Path, seed: int = 0) -> None:
    soundfile.write(path, make.speech(seed=seed), make.RATE)


def test_msp_podcast_is_read_for_dimensions(tmp_path: Path) -> None:
    fake.msp_podcast(tmp_path)
    for path in tmp_path.rglob("*.wav"):
        _write(path)
    corpus = open_corpus(CorpusConfig(name="msp-podcast", root=str(tmp_path)), print, VAD)
    assert [u.unit_dimensions()["valence"] for u in corpus] == pytest.approx([0.5, 0.75, 0.75])


# --- scales --------------------------------------------------------------------------------------


def test_a_dimension_without_a_scale_is_an_error_only_where_targets_ask_for_it(tmp_path: Path) -> None:
    path = table(tmp_path, "1,a,sad,3,2,1..5\n2,a,happy,4,2,\n")
    assert len(opened(path, ("emotion",))[0]) == 2
    with pytest.raises(CorpusError, match=r"m\.csv', row 3: '2' has arousal 4, valence 2, but no scale"):
        opened(path, ("emotion", "arousal"))
    assert len(opened(path, ("emotion", "arousal"), scale=(1, 5))[0]) == 2


def test_the_scale_of_a_recipe_is_for_rows_without_one_and_others_are_reported(tmp_path: Path) -> None:
    corpus, messages = opened(table(tmp_path, "1,a,sad,3,,1..5\n2,a,sad,3,,\n"), ("arousal",), scale=(0, 10))
    assert [u.unit_dimensions()["arousal"] for u in corpus] == [0.5, 0.3]
    assert messages == ["corpus.scale = 0..10 is not used for 1 utterances of 'corpus', which declare 1..5"]


def test_a_known_corpus_keeps_the_scale_that_it_declares(tmp_path: Path) -> None:
    fake.ravdess(tmp_path)
    for path in tmp_path.rglob("*.wav"):
        _write(path)
    messages: list[str] = []
    config = CorpusConfig(name="ravdess", root=str(tmp_path), scale=(0, 9))
    corpus = open_corpus(config, messages.append, ("intensity",))
    assert {u.scale for u in corpus} == {(1.0, 2.0)}
    assert messages == ["corpus.scale = 0..9 is not used for 2 utterances of 'ravdess', which declare 1..2"]


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("5..1", r"corpus\.scale 5\.\.1 is not a range, expected the lowest value before the highest"),
        ("1-5", r"corpus\.scale is '1-5', expected the lowest and the highest possible value, as in 1\.\.5"),
        ("[5, 1]", r"corpus\.scale 5\.\.1 is not a range"),
        ("[1]", "corpus.scale"),
    ],
)
def test_a_bad_scale_of_a_recipe_is_refused(scale: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("demo", [f"corpus.scale={scale}"])


def test_a_scale_is_written_as_text_or_as_a_list() -> None:
    for text in ("1..5", "[1, 5]"):
        assert load_recipe("demo", [f"corpus.scale={text}"]).corpus.scale == (1.0, 5.0)


def test_the_scale_of_an_evaluation_is_for_manifests_alone(tmp_path: Path) -> None:
    path = table(tmp_path, "1,a,sad,3,,\n")
    (utterance,) = CorpusSource(str(path), scale=(1.0, 5.0)).read(None, print)
    assert utterance.unit_dimensions() == {"arousal": 0.5}
    with pytest.raises(ConfigError, match="--scale is for manifests, and 'ravdess' is a known corpus"):
        CorpusSource("ravdess", tmp_path, scale=(1.0, 5.0))


# --- dimensions that are missing ------------------------------------------------------------------


def test_a_dimension_that_no_utterance_has_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "1,a,sad,3,2,1..5\n2,a,happy,4,,1..5\n")
    message = (
        r"no utterance of 'corpus' has dominance, which targets asks for; its utterances have these "
        r"dimensions: arousal \(2\), valence \(1\)"
    )
    for targets in (("dominance",), ("emotion", "arousal", "dominance")):
        with pytest.raises(ConfigError, match=message):
            opened(path, targets)


def rated(values: dict[str, float | None]) -> tuple[Utterance, ...]:
    return tuple(
        Utterance(name, name, "sad", arousal=value, scale=(0.0, 1.0)) for name, value in values.items()
    )


ONE_FOLD = Protocol("x", "fixed", (Fold("1", ("a", "b"), ("c",), ("d",)),))


def test_a_fold_whose_training_lacks_a_dimension_is_refused() -> None:
    with pytest.raises(ConfigError, match="asks for arousal, and no training utterance of fold 1 has it"):
        check_dimensions(rated({"a": None, "b": None, "c": 0.1, "d": 0.2}), ONE_FOLD, ["arousal"])


def test_splits_without_or_with_one_value_of_a_dimension_get_a_warning() -> None:
    counts = check_dimensions(rated({"a": 0.5, "b": 0.5, "c": None, "d": 0.2}), ONE_FOLD, ["arousal"])
    warnings = dimension_warnings(counts)
    assert len(warnings) == 3
    assert warnings[0].startswith("arousal has one value in all of train of fold 1")
    assert "no utterance has arousal in dev of fold 1, where training needs it" in warnings
    assert not dimension_warnings(count_dimensions(rated({"a": 0.5}), ONE_FOLD, []))


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1), min_size=1))
def test_counts_of_a_split_are_those_of_its_values(values: dict[str, float]) -> None:
    everyone = rated({name: values.get(name) for name in "abcd"})
    for split, names in (("train", "ab"), ("dev", "c"), ("test", "d")):
        found = [values[name] for name in names if name in values]
        item = count_dimensions(everyone, ONE_FOLD, ["arousal"])["1"][split]["arousal"]
        assert item.num_utterances == len(found)
        assert (item.lowest, item.highest) == ((min(found), max(found)) if found else (None, None))
        assert item.mean == (pytest.approx(sum(found) / len(found)) if found else None)


def test_stats_have_an_entry_for_each_dimension_and_scale(tmp_path: Path) -> None:
    path = table(tmp_path, "1,a,sad,3,2,1..5\n2,a,sad,1,,1..5\n3,a,sad,7,,0..9\n4,a,sad,7,,\n")
    rows = corpus_stats(read_manifest(path)).dimensions
    assert [(row.name, row.scale, row.num_utterances, row.mean) for row in rows] == [
        ("arousal", (0.0, 9.0), 1, 7.0),
        ("arousal", (1.0, 5.0), 2, 2.0),
        ("arousal", None, 1, 7.0),
        ("valence", (1.0, 5.0), 1, 2.0),
    ]
    assert (rows[1].lowest, rows[1].highest) == (1.0, 3.0)


# --- the command line -----------------------------------------------------------------------------

HEADER = "path,who,level,mood"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A table of six recordings by three speakers, with ratings from 0 to 10 and without emotions."""
    rows = []
    for number in range(6):
        _write(tmp_path / f"{number}.wav", number)
        rows.append(f"{number}.wav,s{number % 3},{number},{10 - number}")
    return table(tmp_path, "\n".join(rows) + "\n", HEADER)


VOTES = ("sad", "sad", "sad;angry", "sad;sad;angry", "angry", "angry")
COLUMNS = ("--columns", "speaker=who,arousal=level,valence=mood")


def test_prepare_writes_the_scale_and_stats_shows_it(emodistill: Call, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "utterances.csv"
    code, _, errors = emodistill("corpus", "prepare", "csv", own, *COLUMNS, "--scale", "0..10", "-o", out)
    assert code == 0, errors
    assert {row["scale"] for row in make.read_rows(out)} == {"0..10"}
    code, text, errors = emodistill("corpus", "stats", out)
    assert code == 0, errors
    assert any(
        line.split()[1::2] == ["arousal", "0..10", "6", "2.500", "0.000", "5.000"]
        for line in text.splitlines()
    )
    code, text, _ = emodistill("corpus", "stats", own, *COLUMNS)
    assert code == 0
    assert "not declared" in text
    assert "0..10" in emodistill("corpus", "stats", own, *COLUMNS, "--scale", "0..10")[1]


def test_prepare_warns_of_dimensions_without_a_scale(emodistill: Call, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "utterances.csv"
    code, _, errors = emodistill("corpus", "prepare", "csv", own, *COLUMNS, "-o", out)
    assert code == 0, errors
    assert "6 utterances have dimensions and no scale, which training needs" in " ".join(errors.split())
    _, _, errors = emodistill("corpus", "prepare", "csv", own, *COLUMNS, "--scale", "0..10", "-o", out)
    assert "no scale" not in errors


def test_prepare_and_stats_count_votes(emodistill: Call, own: Path, tmp_path: Path) -> None:
    text = own.read_text(encoding="utf-8").splitlines()
    rows = [text[0] + ",emotion", *(f"{row},{emotion}" for row, emotion in zip(text[1:], VOTES, strict=True))]
    own.write_text("\n".join(rows) + "\n", encoding="utf-8")
    out = tmp_path / "utterances.csv"
    code, _, errors = emodistill("corpus", "prepare", "csv", own, *COLUMNS, "-o", out)
    assert code == 0, errors
    assert "2 utterances have listeners' votes, 2.5 each" in errors
    assert [row["emotion"] for row in make.read_rows(out)] == ["sad", "sad", "", "sad", "angry", "angry"]
    code, _, errors = emodistill("corpus", "stats", out)
    assert code == 0, errors
    assert "2 utterances have listeners' votes, 2.5 each" in errors


def test_prepare_leaves_out_rows_without_any_label(emodistill: Call, own: Path, tmp_path: Path) -> None:
    given = (",,sad", "1,,", ",,sad;angry", ",,", ",,angry", ",,angry")
    rows = [f"{number}.wav,s{number % 3},{cells}" for number, cells in enumerate(given)]
    own.write_text("\n".join([HEADER + ",emotion", *rows]) + "\n", encoding="utf-8")
    found = {}
    for labels in ((), ("--labels", "own"), ("--labels", "all")):
        out = tmp_path / "utterances.csv"
        code, _, errors = emodistill("corpus", "prepare", "csv", own, *COLUMNS, *labels, "-o", out)
        assert code == 0, errors
        assert ("dropped: 1 × no emotion" in errors) == (not labels)
        found[labels[-1:]] = [row["id"] for row in make.read_rows(out)]
    assert found == {(): list("01245"), ("own",): list("045"), ("all",): list("012345")}


@pytest.mark.parametrize("verb", ["prepare", "stats", "audit"])
@pytest.mark.parametrize("scale", ["10..0", "0-10", "0..4"])
def test_a_bad_scale_ends_a_command_with_2(
    verb: str, scale: str, emodistill: Call, own: Path, tmp_path: Path
) -> None:
    given_paths = {
        "prepare": ("csv", own, "-o", tmp_path / "u.csv"),
        "stats": (own,),
        "audit": ("demo", "--set", f"corpus.manifest={own}", "--set", 'targets=["arousal"]'),
    }
    code, _, errors = emodistill("corpus", verb, *given_paths[verb], *COLUMNS, "--scale", scale)
    expected = {"10..0": "--scale 10..0 is not a range", "0-10": "--scale is '0-10', expected"}
    assert code == 2
    assert expected.get(scale, "row 2: '0': valence is 10, which is outside of its scale 0..4") in errors


def test_evaluate_reads_the_scale_of_a_manifest(emodistill: Call, own: Path) -> None:
    table = ("evaluate", "bundled", own, *COLUMNS, "--scale")
    for scale, message in (("10..0", "--scale 10..0 is not a range"), ("0..4", "outside of its scale 0..4")):
        code, _, errors = emodistill(*table, scale)
        assert (code, message in errors) == (2, True), errors


def test_the_scale_is_not_for_a_known_corpus(emodistill: Call, tmp_path: Path) -> None:
    code, _, errors = emodistill(
        "corpus", "prepare", "ravdess", tmp_path, "--scale", "1..2", "-o", tmp_path / "u.csv"
    )
    assert code == 2
    assert "--scale are for a table of your own" in errors


def test_the_audit_shows_the_dimensions_of_each_split(emodistill: Call, own: Path) -> None:
    arguments = (
        "corpus", "audit", "demo", "--set", f"corpus.manifest={own}", "--set", "protocol.folds=3",
        "--set", 'targets=["arousal", "valence"]', *COLUMNS, "--scale", "0..10",
    )  # fmt: skip
    code, text, errors = emodistill(*arguments, "--format", "json")
    assert code == 0, errors
    for fold in json.loads(text)["folds"]:
        for name in ("arousal", "valence"):
            items = [fold["dimensions"][split][name] for split in ("train", "dev", "test")]
            assert [item["num_utterances"] for item in items] == [2, 2, 2]
            assert all(0 <= item["lowest"] < item["mean"] < item["highest"] <= 1 for item in items)
    code, text, errors = emodistill(*arguments)
    assert code == 0, errors
    assert "arousal, from 0 to 1" in text
    assert "valence, from 0 to 1" in text


def test_the_audit_refuses_a_dimension_without_a_scale_and_names_the_row(emodistill: Call, own: Path) -> None:
    code, _, errors = emodistill(
        "corpus", "audit", "demo", "--set", f"corpus.manifest={own}", "--set", 'targets=["arousal"]', *COLUMNS
    )
    assert code == 2
    assert "row 2: '0' has arousal 0, valence 10, but no scale" in errors


def test_emotions_alone_need_no_scale(capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus("corpus", (Utterance("1", "a", "sad", arousal=3),))
    report_dimensions(corpus, count_dimensions(corpus, ONE_FOLD, []))
    assert capsys.readouterr().err == ""


def test_dimensions_are_in_the_order_of_the_manifest() -> None:
    item = Utterance("1", "a", None, arousal=1, valence=2, dominance=3, intensity=4, scale=(0.0, 4.0))
    assert tuple(item.dimensions()) == DIMENSIONS
    assert list(item.unit_dimensions().values()) == [0.25, 0.5, 0.75, 1.0]


def test_the_layout_of_iemocap_is_trained_on_emotions_votes_and_dimensions(tmp_path: Path) -> None:
    emotions = ("ang", "exc", "sad", "neu", "xxx")
    turns = {
        f"Ses0{session}F_impro01_{gender}{number:03d}": emotion
        for session in (1, 2, 3)
        for gender in "FM"
        for number, emotion in enumerate(emotions)
    }
    fake.iemocap(tmp_path / "iemocap", turns=turns)
    for path in (tmp_path / "iemocap").rglob("EmoEvaluation/Ses*.txt"):
        rows = path.read_text(encoding="utf-8").split("[2.5000, 3.0000, 3.5000]")
        ratings = [f"[{1 + number % 5}.0, {5 - number % 4}.0, 3.0]" for number in range(len(rows) - 1)]
        text = "".join(row + rating for row, rating in zip(rows, [*ratings, ""], strict=True))
        path.write_text(text, encoding="utf-8")
    for seed, path in enumerate(sorted((tmp_path / "iemocap").rglob("*.wav"))):
        _write(path, seed)
    recipe = Recipe.model_validate(
        {
            "name": "layout",
            "targets": ["emotion", "arousal", "valence"],
            "corpus": {"name": "iemocap", "root": str(tmp_path / "iemocap")},
            "protocol": {"kind": "leave-one-session-out"},
            "student": {
                "backbone": "compact", "layers": 1, "width": 16, "embedding_dim": 16,
                "optim": {"epochs": 1, "batch_size": 8, "targets": "votes"},
            },
            "distillation": {"teachers": []},
            "runtime": {"accelerator": "cpu", "threads": 1},
        }
    )  # fmt: skip
    crossval(recipe, tmp_path / "run", max_folds=1)
    table = read_dimensions(tmp_path / "run/dimensions.csv")
    assert len(table) == 10
    assert not np.isnan(table.truth).any()
    assert len(read_predictions(tmp_path / "run/predictions.csv")) == 8  # without the turns of no agreement
