"""The times of words, further speech without labels, and how both reach the student's training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.config import AudioConfig, LinguisticConfig, parse_recipe, recipe_toml
from emodistill.corpora import Word, open_further, read_manifest
from emodistill.corpora.words import add_words
from emodistill.errors import ConfigError, CorpusError, LeakError
from emodistill.features.preparation import prepare_waveform, prepared_spans, read_waveform
from emodistill.models.checkpoint import load_checkpoint
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.training.ablation import ablate
from emodistill.training.cross_validation import crossval
from emodistill.training.grid import make_grid
from emodistill.training.preflight import check_recipe
from emodistill.training.targets import TeacherTargets, with_words, word_shares


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    manifest = make.corpus_folder(folder)
    rows = [
        {"id": utterance.id, "start_s": 0.1 * place, "end_s": 0.1 * (place + 1), "word": word}
        for utterance in read_manifest(manifest)
        for place, word in enumerate((utterance.transcript or "").split())
    ]
    make.write_rows(folder / "words.csv", rows)
    further = [
        {"id": f"f{number}", "path": f"f{number}.wav", "speaker": speaker, "emotion": "",
         "transcript": transcript}
        for number, (speaker, transcript) in enumerate(
            2 * [("stranger", "one more line"), ("s0", "nobody said this")]
        )
    ]  # fmt: skip
    for number, row in enumerate(further):
        soundfile.write(folder / row["path"], make.speech(0.4 + 0.05 * number, seed=900 + number), make.RATE)
    make.write_rows(folder / "further.csv", [*further, {**further[0], "id": "silent", "transcript": ""}])
    words = [{"id": row["id"], "start_s": 0.0, "end_s": 0.2, "word": row["transcript"]} for row in further]
    make.write_rows(folder / "further-words.csv", words)
    return manifest


# --- files ---------------------------------------------------------------------------------------


def test_all_three_forms_give_the_same_words(manifest: Path, tmp_path: Path) -> None:
    corpus = read_manifest(manifest)
    one, two = (utterance.id for utterance in list(corpus)[:2])
    expected = {one: (Word(0.1, 0.4, "hello"), Word(0.4, 0.7, "you")), two: (Word(0.0, 0.25, "no"),)}
    table = tmp_path / "words.tsv"
    table.write_text(
        f"id\tstart_s\tend_s\tword\n{one}\t0.1\t0.4\thello\n{one}\t0.4\t0.7\tyou\n{two}\t0\t0.25\tno\n"
    )
    ctm = tmp_path / "words.ctm"
    ctm.write_text(f";; a comment\n{one} 1 0.1 0.3 hello 0.9\n{one} 1 0.4 0.3 you\n{two} 1 0.0 0.25 no\n")
    folder = tmp_path / "json"
    folder.mkdir()
    for name, words in expected.items():
        listed = [{"word": word.text, "start": word.start_s, "end": word.end_s} for word in words]
        untimed = [{"word": "1984"}]
        (folder / f"{name}.json").write_text(json.dumps({"segments": [{"words": listed + untimed}]}))
    for path in (table, ctm, folder):
        by_id = {utterance.id: utterance.words for utterance in add_words(corpus, path) if utterance.words}
        assert by_id.keys() == expected.keys()
        for name, words in expected.items():
            assert [word.text for word in by_id[name]] == [word.text for word in words]
            times = [time for word in by_id[name] for time in (word.start_s, word.end_s)]
            assert times == pytest.approx([time for word in words for time in (word.start_s, word.end_s)])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{one},0.5,0.4,late", r"row 2: the word 'late' runs from 0.5 to 0.4 s"),
        ("{one},-1,0.4,early", r"row 2: .* start of 0 or more"),
        ("{one},now,0.4,when", r"row 2: the time is 'now'"),
        ("{one},nan,0.4,when", r"row 2: the time is 'nan'"),
        ("{one},0.5,0.6,b\n{one},0.1,0.2,a", r"row 3: the word 'a' starts at 0.1 s"),
        ("nobody,0.1,0.2,a", r"words of 1 ids that 'utterances' lacks, such as 'nobody'"),
    ],
)
def test_bad_words_are_named(manifest: Path, tmp_path: Path, row: str, message: str) -> None:
    corpus = read_manifest(manifest)
    path = tmp_path / "words.csv"
    path.write_text("id,start_s,end_s,word\n" + row.format(one=next(iter(corpus)).id) + "\n")
    with pytest.raises(CorpusError, match=message):
        add_words(corpus, path)


def test_bad_files_of_words_are_named(manifest: Path, tmp_path: Path) -> None:
    corpus = read_manifest(manifest)
    with pytest.raises(CorpusError, match=r"no words .*expected a table with the columns id, start_s"):
        add_words(corpus, tmp_path / "missing.csv")
    with pytest.raises(CorpusError, match=r"no \.json file"):
        add_words(corpus, tmp_path)
    (tmp_path / "a.json").write_text('{"segments": 3}')
    with pytest.raises(CorpusError, match="is no JSON of whisperX"):
        add_words(corpus, tmp_path)
    (tmp_path / "b.ctm").write_bytes(b"\xff\xfe\n")
    with pytest.raises(CorpusError, match=r"b.ctm' is not UTF-8"):
        add_words(corpus, tmp_path / "b.ctm")
    (tmp_path / "a.ctm").write_text("a 1 0.2\n")
    with pytest.raises(CorpusError, match=r"line 1: 3 fields, expected id, channel, start"):
        add_words(corpus, tmp_path / "a.ctm")


def test_further_speech_has_no_label_and_needs_a_transcript(manifest: Path) -> None:
    config = make.recipe(manifest, corpus={"further": str(manifest.with_name("further.csv"))}).corpus
    messages: list[str] = []
    further = open_further(config, messages.append)
    assert [item.id for item in further] == ["further/f0", "further/f1", "further/f2", "further/f3"]
    assert {item.emotion for item in further} == {None}
    assert messages == ["left out: 1 further utterances without a transcript or audio"]


# --- places --------------------------------------------------------------------------------------


def test_prepared_spans_are_the_samples_that_training_hears(manifest: Path) -> None:
    for utterance in list(read_manifest(manifest))[::5]:
        for audio in (AudioConfig(), AudioConfig(trim_db=None), AudioConfig(max_s=0.25)):
            whole = read_waveform(utterance)
            spans = prepared_spans(utterance, audio)
            joined = np.concatenate([whole[start:end] for start, end in spans])
            np.testing.assert_allclose(joined, prepare_waveform(utterance, audio), atol=1e-6)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=8), st.lists(st.floats(0, 0.02), min_size=2))
def test_places_of_words_are_shares_in_order(lengths: list[int], times: list[float]) -> None:
    edges = np.cumsum(lengths)
    kept = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))[::2]  # every second part is kept
    words = [Word(start, end, "x") for start, end in zip(sorted(times)[:-1], sorted(times)[1:], strict=True)]
    shares = [value for pair in word_shares(words, kept) for value in pair]
    assert all(0 <= value <= 1 for value in shares)
    assert shares == sorted(shares)


def test_a_word_in_a_part_that_is_cut_has_no_place() -> None:
    kept = [(16_000, 32_000), (48_000, 64_000)]
    words = [Word(0.0, 0.9, "cut"), Word(1.5, 2.5, "half"), Word(3.0, 4.0, "whole")]
    assert word_shares(words, kept) == [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0)]


def test_word_vectors_are_means_of_the_tokens_of_each_word() -> None:
    teacher = LinguisticTeacher.create(
        LinguisticConfig(encoder="scratch"), 2, ["i am here", "you too"]
    ).eval()
    vectors = teacher.word_vectors(["i am", "here"])
    tokens = teacher.tokenize("i am here")
    states = teacher.encoder(input_ids=tokens[None]).last_hidden_state[0]
    assert vectors.keys() == {0, 1}
    torch.testing.assert_close(vectors[0], states[:2].mean(dim=0))
    torch.testing.assert_close(vectors[1], states[2])


def test_words_are_kept_where_training_hears_them(manifest: Path) -> None:
    spoken = [item for item in read_manifest(manifest) if item.transcript][:3]
    inside, outside = Word(0.05, 0.2, "stop"), Word(50.0, 51.0, "now")
    words = [(inside, outside), (), (outside,)]
    utterances = [replace(item, words=each) for item, each in zip(spoken, words, strict=True)]
    teacher = LinguisticTeacher.create(LinguisticConfig(encoder="scratch"), 2, ["stop now"]).eval()
    ids, rows = tuple(item.id for item in spoken), torch.zeros(3, 2)
    targets = TeacherTargets(ids, rows, rows, torch.ones(3, dtype=torch.bool))
    found = with_words(targets, teacher, utterances, AudioConfig())
    assert found.word_offsets is not None
    assert found.word_vectors is not None
    assert found.word_offsets.tolist() == [[0, 1], [1, 1], [1, 1]]
    assert found.word_vectors.isfinite().all(), "one word alone has no deviation"
    with pytest.raises(ConfigError, match="no training utterance has any"):
        with_words(targets, teacher, utterances[1:], AudioConfig())


def test_a_word_beyond_the_last_token_has_no_vector() -> None:
    config = LinguisticConfig(encoder="scratch", max_tokens=4)
    teacher = LinguisticTeacher.create(config, 2, ["a b c d e f"]).eval()
    assert teacher.word_vectors(["a b", "c d", "e", "f"]).keys() == {0, 1}


# --- certainty -----------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=1, max_size=5))
def test_certainty_is_between_none_for_equal_logits_and_one(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows)
    targets = TeacherTargets(("x",) * len(rows), logits, logits, torch.ones(len(rows), dtype=torch.bool))
    certainty = targets.certainty("certain", [0] * len(rows))
    assert certainty is not None
    assert ((certainty > -1e-5) & (certainty < 1 + 1e-5)).all()
    right = targets.certainty("certain-and-right", [None, *[0] * (len(rows) - 1)])
    assert right is not None
    assert right[0] == certainty[0], "without a label, a teacher cannot be wrong"
    for row in range(1, len(rows)):
        assert right[row] == (certainty[row] if logits[row].argmax() == 0 else 0)
    assert targets.certainty(None, [0] * len(rows)) is None


def test_equal_logits_are_not_certain_and_far_ones_are() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
    targets = TeacherTargets(("a", "b"), logits, logits, torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(targets.certainty("certain", [0, 0]), torch.tensor([0.0, 1.0]))


# --- training ------------------------------------------------------------------------------------


def every_option(manifest: Path, **corpus: Any) -> Any:
    return make.recipe(
        manifest,
        corpus={
            "words": str(manifest.with_name("words.csv")),
            "further": str(manifest.with_name("further.csv")),
            "further_words": str(manifest.with_name("further-words.csv")),
            **corpus,
        },
        protocol={"refit": False},
        student={"queries": 2},
        distillation={
            "words": 1.0, "contrast": 0.1, "word_contrast": 0.2, "certainty": "certain-and-right",
            "targets": "out-of-fold", "inner_folds": 2,
        },
    )  # fmt: skip


def test_all_options_train_and_further_speech_needs_no_label(manifest: Path, tmp_path: Path) -> None:
    crossval(every_option(manifest), tmp_path / "one", max_folds=1)
    fit = json.loads((tmp_path / "one/fold-1/select/student/fit.json").read_text())
    terms = {"linguistic/words", "linguistic/word_contrast", "linguistic/contrast", "prosodic/contrast"}
    assert terms <= fit["history"][0].keys()
    assert "prosodic/words" not in fit["history"][0]
    ids = set(load_checkpoint(tmp_path / "one/fold-1/select/student").training_ids)
    assert "further/f0" in ids
    held_out = {
        row["speaker"]
        for name in ("predictions.csv", "predictions-dev.csv")
        for row in make.read_rows(tmp_path / "one/fold-1" / name)
    }
    assert ("further/f1" in ids) == ("s0" not in held_out)

    labelled = manifest.with_name("further-labelled.csv")
    make.write_rows(
        labelled, [{**row, "emotion": "sad"} for row in make.read_rows(manifest.with_name("further.csv"))]
    )
    crossval(every_option(manifest, further=str(labelled)), tmp_path / "two", max_folds=1)
    tables = [(tmp_path / name / "fold-1/predictions.csv").read_bytes() for name in ("one", "two")]
    assert tables[0] == tables[1]


def test_further_speech_of_held_out_speakers_or_sentences_is_left_out(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = next(item.transcript for item in read_manifest(manifest) if item.transcript)
    rows = make.read_rows(manifest.with_name("further.csv"))[:1]
    path = manifest.with_name("further-known.csv")
    speakers = sorted({item.speaker for item in read_manifest(manifest)})
    known = [{**rows[0], "id": f"of-{speaker}", "speaker": speaker} for speaker in speakers]
    make.write_rows(
        path, [*rows, *known, {**rows[0], "id": "known-words", "transcript": f"{sentence.upper()}!"}]
    )
    recipe = every_option(manifest, further=str(path), further_words=None)
    crossval(recipe, tmp_path, max_folds=1)
    ids = load_checkpoint(tmp_path / "fold-1/select/student").training_ids
    further = {name for name in ids if name.startswith("further/")}
    train = {name.split("_")[0] for name in ids if not name.startswith("further/")}
    assert further == {f"further/{rows[0]['id']}", *(f"further/of-{speaker}" for speaker in train)}
    left_out = len(speakers) - len(train) + 1
    assert f"left out {left_out} further utterances" in " ".join(capsys.readouterr().err.split())


def test_a_held_out_recording_in_further_speech_is_a_leak(manifest: Path, tmp_path: Path) -> None:
    own = next(item for item in read_manifest(manifest) if item.transcript and item.path is not None)
    row = make.read_rows(manifest.with_name("further.csv"))[0]
    path = manifest.with_name("further-copy.csv")
    recipe = every_option(manifest, further=str(path), further_words=None)
    assert own.path is not None
    make.write_rows(path, [{**row, "path": own.path.name}])
    with pytest.raises(LeakError, match=rf"under other names: 'further/{row['id']}' = '{own.id}'"):
        check_recipe(recipe)
    for allowed in (
        {"speaker": own.speaker},
        {"transcript": own.transcript},
    ):  # left out where it is held out
        make.write_rows(path, [{**row, "path": own.path.name, **allowed}])
        check_recipe(recipe)


def test_words_without_times_are_refused_before_training(manifest: Path) -> None:
    with pytest.raises(ConfigError, match=r"distillation.words needs the times of words: set corpus.words"):
        make.recipe(manifest, distillation={"words": 1.0})
    with pytest.raises(ConfigError, match=r"mixup does not keep"):
        parse_recipe(
            make.recipe_data(
                manifest,
                corpus={"words": "w.csv"},
                distillation={"words": 1.0},
                student={"frozen": 1, "backbone": "hubert", "optim": {**make.OPTIM, "mixup": 0.2}},
            )
        )
    with pytest.raises(ConfigError, match=r"crops do not keep: set voice.crop_probability = 0"):
        make.voice_recipe(
            manifest,
            corpus={"words": "w.csv"},
            distillation={"teachers": ["linguistic"], "word_contrast": 1.0},
        )
    with pytest.raises(ConfigError, match=r"further speech, of which there is none"):
        make.recipe(manifest, corpus={"further_words": "w.csv"})


def test_the_option_words_sets_the_words_of_the_corpus(manifest: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_toml(make.recipe(manifest, distillation={"teachers": ["prosodic"]})))
    words = tmp_path / "nobody's words.csv"
    for verb, *options in (
        ["train"], ["crossval"], ["ablate"], ["tune", "--space", "student.dropout=0.1,0.2"],
    ):  # fmt: skip
        result = CliRunner().invoke(
            app, [verb, str(recipe), *options, "--words", str(words), "-o", str(tmp_path / verb)]
        )
        assert isinstance(result.exception, CorpusError)
        assert f"no words '{words}'" in str(result.exception)


def test_a_grid_with_the_word_level_shares_its_teachers(manifest: Path, tmp_path: Path) -> None:
    recipe = every_option(manifest)
    recipe = replace_in(recipe, "protocol", kind="k-fold", folds=3)
    recipe = replace_in(recipe, "distillation", teachers=("linguistic",), targets="in-sample")
    table = ablate(recipe, tmp_path, only=["no-words"])
    assert [row.cell for row in table.rows][:2] == ["full", "no-words"]


def test_each_option_has_a_cell_of_its_own(manifest: Path) -> None:
    grid = make_grid(every_option(manifest))
    cells = {cell.name: cell.recipe for cell in grid.cells}
    full = cells["full"]
    assert full.student is not None
    expected = {
        "no-words": replace_in(full, "distillation", words=0.0),
        "no-word-contrast": replace_in(full, "distillation", word_contrast=0.0),
        "no-contrast": replace_in(full, "distillation", contrast=0.0),
        "no-certainty": replace_in(full, "distillation", certainty=None),
        "no-queries": replace_in(full, "student", queries=0),
        "no-further-speech": replace_in(full, "corpus", further=None, further_words=None),
    }
    for name, recipe in expected.items():
        assert cells[name] == recipe, name
    plain = make_grid(make.recipe(manifest))
    assert not expected.keys() & {cell.name for cell in plain.cells}


def test_words_first_teaches_words_and_then_labels(manifest: Path, tmp_path: Path) -> None:
    recipe = words_first(manifest)
    out = tmp_path / "one"
    crossval(recipe, out, max_folds=1)
    models = out / "fold-1/select"
    terms = {
        name: json.loads((models / name / "fit.json").read_text())["history"][-1]
        for name in ("words", "student")
    }
    assert terms["words"]["hard"] == 0 < terms["student"]["hard"]
    assert {"linguistic/words", "linguistic/logit"} <= terms["words"].keys()
    assert not [name for name in terms["words"] if name.startswith("prosodic")]
    assert "prosodic/logit" in terms["student"]
    assert not [name for name in terms["student"] if name.startswith("linguistic")]
    student = load_checkpoint(models / "student")
    assert set(student.model.heads) == {"prosodic"}
    assert "further/f0" in student.training_ids
    training = json.loads((out / "cost.json").read_text())["models"]["student"]["training"]
    assert {"select", "select words"} <= training["1"].keys()

    # The second training is the one that starts from this model by hand.
    by_hand = replace_in(recipe, "student", words_first=None, init=str(models / "words"))
    crossval(replace_in(by_hand, "distillation", teachers=("prosodic",)), tmp_path / "two", max_folds=1)
    tables = [(tmp_path / name / "fold-1/predictions.csv").read_bytes() for name in ("one", "two")]
    assert tables[0] == tables[1]

    # A run that was stopped after the first training continues with the second.
    before = (models / "words/model.safetensors").stat().st_mtime_ns
    shutil.rmtree(models / "student")
    for name in ("predictions.csv", "tables.json"):
        (out / "fold-1" / name).unlink()
    crossval(recipe, out, max_folds=1)
    assert (models / "words/model.safetensors").stat().st_mtime_ns == before
    assert (out / "fold-1/predictions.csv").read_bytes() == tables[0]


def test_cells_share_the_first_training_and_one_lacks_it(manifest: Path, tmp_path: Path) -> None:
    recipe = replace_in(words_first(manifest), "protocol", kind="k-fold", folds=3)
    ablate(recipe, tmp_path, only=["linguistic-only", "prosodic-only", "no-words-first"])
    cells = {path.name: path / "seed-0/fold-1/select" for path in (tmp_path / "cells").iterdir()}
    first = {name: (path / "words/model.safetensors") for name, path in cells.items()}
    assert first["full"].samefile(first["linguistic-only"])
    assert not first["prosodic-only"].exists()
    assert not first["no-words-first"].exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"student": {"words_first": {}, "layers": 2}}, None),
        (
            {"student": {"words_first": {"frozen": 1}, "layers": 2}},
            r"compact is trained from nothing: words_first.frozen",
        ),
        (
            {"student": {"words_first": {"frozen": 2}, "backbone": "folder", "layers": 2}},
            r"words_first.frozen = 2 leaves none of layers = 2 to learn words",
        ),
        (
            {"student": {"words_first": {}, "backbone": "folder", "frozen": 2, "probe": 0.5}},
            r"probe and words_first are two ways to start",
        ),
        ({"voice": {}, "student": {"words_first": {}}}, r"student.words_first trains without voices"),
        ({"acoustic": {"student": {"words_first": {}}}}, r"acoustic.student.words_first: no teacher teaches"),
    ],
)
def test_a_first_training_that_does_not_fit_is_refused(
    manifest: Path, sections: dict[str, Any], message: str | None
) -> None:
    if message is None:
        make.recipe(manifest, **sections)
        return
    with pytest.raises(ConfigError, match=message):
        make.recipe(manifest, **sections)


def words_first(manifest: Path) -> Any:
    optim = {"epochs": 2, "batch_size": 4, "select": "last"}
    recipe = replace_in(every_option(manifest), "student", words_first={"optim": optim})
    return replace_in(recipe, "distillation", targets="in-sample")


def replace_in(recipe: Any, section: str, **values: Any) -> Any:
    data = recipe.model_dump()
    data[section] |= values
    return parse_recipe(data)
