"""Checks before training: models that cannot be found, and folds that lack what a recipe needs."""

import json
import shutil
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import factories as make
import pytest

from emodistill.corpora import read_manifest
from emodistill.errors import ConfigError, EmodistillError, LeakError, ModelError
from emodistill.models import pretrained
from emodistill.models.pretrained import find_pretrained, folder_or_id
from emodistill.training.ablation import ablate
from emodistill.training.cross_validation import crossval, prepare_run
from emodistill.training.fold import FoldRun
from emodistill.training.preflight import check_recipe, read_data


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training a model fails the test."""
    monkeypatch.setattr(FoldRun, "_train_new", None)


@pytest.fixture
def silent(manifest: Path, tmp_path: Path) -> Path:
    """The corpus of `manifest` without any transcript."""
    rows = make.read_rows(manifest)
    return make.write_rows(
        tmp_path / "silent.csv",
        [{**row, "transcript": "", "path": manifest.parent / row["path"]} for row in rows],
    )


def no_request(*args: object, **kwargs: object) -> None:
    raise AssertionError("a request was made")


# --- pretrained models -----------------------------------------------------------------------------


def test_a_model_in_a_folder_is_found_without_a_request(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "urlopen", no_request)
    for name in make.SPEECH_MODELS:
        found = find_pretrained(str(models[name]), "student.backbone")
        assert (found.num_layers, found.folder) == (2, models[name])
    assert find_pretrained(str(models["bert"]), "linguistic.encoder", with_tokenizer=True).num_layers == 2


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "a/b/c", "models/../x", "own/model"])
def test_a_folder_that_does_not_exist_is_named_as_such(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "urlopen", no_request)
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()  # so `own/model` cannot be meant as a hub id
    with pytest.raises(
        ModelError, match=r"student\.backbone = '.*': no such folder; expected a folder"
    ) as caught:
        find_pretrained(name, "student.backbone")
    assert f"'{name}'" in str(caught.value)


@pytest.mark.parametrize("left_out", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_named_with_the_missing_file(
    left_out: str, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(models["bert"], folder, ignore=shutil.ignore_patterns(left_out))
    with pytest.raises(ModelError, match=f"x.y = .*: the folder has no {left_out}, expected"):
        find_pretrained(str(folder), "x.y", with_tokenizer=True)
    (folder / "config.json").write_text("{")
    (folder / "model.safetensors").touch()
    (folder / "tokenizer.json").touch()
    with pytest.raises(ModelError, match=r"its config\.json is no JSON"):
        find_pretrained(str(folder), "x.y", with_tokenizer=True)


def test_offline_a_hub_id_that_is_not_cached_makes_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "urlopen", no_request)
    with pytest.raises(
        ModelError, match=r"'openai/none': no such folder, .*HF_HUB_OFFLINE is set: give a folder"
    ):
        find_pretrained("openai/none", "student.backbone")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (URLError("no route"), r"not in the local cache, and the hub cannot be reached \(no route\): give a"),
        (TimeoutError("timed out"), r"the hub cannot be reached \(timed out\)"),
        (HTTPError("", 404, "Not Found", Message(), None), r"the hub answers 404 \(Not Found\) for this id"),
    ],
)
def test_online_one_request_finds_that_a_hub_id_cannot_be_loaded(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = []

    def fail(request: Any, timeout: float) -> None:
        requests.append((request.full_url, timeout))
        raise error

    monkeypatch.setattr(pretrained, "urlopen", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=message):
        find_pretrained("openai/none", "student.backbone")
    ((address, timeout),) = requests
    assert address.endswith("/openai/none/resolve/main/config.json")
    assert timeout <= 10


def test_a_cached_hub_id_is_loaded_from_its_folder(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--some--bert"
    snapshot = repository / "snapshots" / ("a" * 40)
    shutil.copytree(models["bert"], snapshot)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "urlopen", no_request)
    assert find_pretrained("some/bert", "x", with_tokenizer=True).folder == snapshot
    assert folder_or_id("some/bert", with_tokenizer=True) == str(snapshot)
    assert folder_or_id("some/other") == "some/other"
    assert folder_or_id(str(models["bert"])) == str(models["bert"])
    (snapshot / "tokenizer.json").unlink()  # the download was stopped
    assert folder_or_id("some/bert", with_tokenizer=True) == "some/bert"


# --- a recipe against its models and folds -----------------------------------------------------------


def bad_recipes(models: dict[str, Path], run: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Sections of a recipe, by name, and the message of the error that each is refused with."""
    hubert = {"backbone": str(models["hubert"]), "layers": 2, "frozen": 2, "embedding_dim": 8}
    acoustic = {"teachers": ["prosodic", "acoustic"]}
    bert = {"encoder": str(models["bert"])}
    return {
        "folder": ({"student": {"backbone": "/no/such"}}, r"student\.backbone = '/no/such': no such folder"),
        "encoder": ({"linguistic": {"encoder": "/no"}}, r"linguistic\.encoder = '/no': no such folder"),
        "teacher": (
            {"distillation": acoustic, "acoustic": {"student": {"backbone": "/no"}}},
            r"acoustic\.student\.backbone = '/no': no such folder",
        ),
        "layers": ({"student": {**hubert, "layers": 3}}, r"student\.layers = 3, but the backbone has 2"),
        "frozen": ({"student": {"frozen": 3, "backbone": hubert["backbone"], "layers": None}}, r"frozen = 3"),
        "pool": ({"student": {**hubert, "pool": [5]}}, r"student\.pool = \[5\], .* layers are 0 … 2"),
        "probe": ({"student": {**hubert, "frozen": 1, "probe": 0.5}}, "a probe reads frozen layers"),
        "narrow": ({"student": {**hubert, "probe": 0.5, "embedding_dim": 2}}, "raise it to 3 or more"),
        "text": ({"linguistic": {**bert, "frozen": 9}}, r"linguistic\.frozen = 9, but '.*' has 2 layers"),
        "acoustic": (
            {"distillation": acoustic, "acoustic": {"run": "/no/such"}},
            "fold 1 has no trained student in '/no/such/.*; there is no such run folder; finish that run",
        ),
        "emotions": (
            {"distillation": acoustic, "acoustic": {"run": str(run)}, "protocol": {"folds": 3}},
            r"has the emotions \['angry', 'sad'\], expected those of this run, \['angry', 'happy', 'sad'\]",
        ),
        "init": ({"student": {"init": "/no"}}, r"student\.init = '/no': no such folder; expected bundled"),
        "kind": (
            {"student": {"init": str(run / "fold-1/select/prosodic")}},
            "it holds a prosodic model, expected a student model",
        ),
        "views": (
            {"distillation": {**acoustic, "hidden": 1.0}, "augment": {"views": 0},
             "acoustic": {"student": {"backbone": "compact"}}},
            r"distillation\.hidden needs a fixed number of views",
        ),
        "refit": (
            {"distillation": {**acoustic, "targets": "out-of-fold"}, "acoustic": {"run": str(run)}},
            "unset acoustic.run",
        ),
    }  # fmt: skip


BAD = sorted(bad_recipes(dict.fromkeys(("hubert", "bert"), Path()), Path()))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of four speakers and three emotions."""
    folder = tmp_path_factory.mktemp("three")
    return make.corpus_folder(folder, speakers=4, emotions=("angry", "happy", "sad"), each=1)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("no_training")
def test_a_bad_recipe_is_refused_before_training(
    name: str, three: Path, models: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    sections, message = bad_recipes(models, run)[name]
    recipe = make.recipe(three, **sections)
    with pytest.raises(EmodistillError, match=message):
        check_recipe(recipe)
    with pytest.raises(EmodistillError, match=message):
        crossval(recipe, tmp_path / "run")
    with pytest.raises(EmodistillError, match=message):
        ablate(recipe, tmp_path / "grid")
    assert list(tmp_path.iterdir()) == [], "no file is written before all checks"


@pytest.mark.usefixtures("no_training")
def test_a_model_that_cannot_be_built_is_refused_before_training(
    three: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    """Whether a backbone has a spectrogram is known when it is built."""
    recipe = make.recipe(three, student={"backbone": str(models["hubert"]), "width": 192, "warp": 0.1})
    with pytest.raises(ConfigError, match=r"student\.warp and student\.band_mask augment"):
        crossval(recipe, tmp_path / "run")
    assert list(tmp_path.iterdir()) == [], "no file is written before all checks"


@pytest.mark.usefixtures("no_training")
def test_every_cell_of_a_grid_is_checked_before_the_first_is_trained(manifest: Path, tmp_path: Path) -> None:
    recipe = make.recipe(manifest, distillation={"teachers": ["prosodic"]})
    for sweep, message in (
        ("student.backbone=compact,/no/such", "'/no/such': no such folder"),
        ('distillation.teachers=["prosodic"],["acoustic"]', "whisper-base|hubert-base"),
    ):
        with pytest.raises(ModelError, match=message):
            ablate(recipe, tmp_path / "grid", sweeps=[sweep], parts=False)


@pytest.mark.usefixtures("no_training")
def test_a_probe_needs_every_emotion_in_training_of_each_fold(
    three: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    data = read_data(make.recipe(three))
    (first, *_) = data.protocol.folds
    happy = {u.id for u in data.corpus if u.emotion == "happy"} - set(first.test)
    rows = [
        {**row, "path": three.parent / row["path"]} for row in make.read_rows(three) if row["id"] not in happy
    ]
    listed = make.write_rows(tmp_path / "utterances.csv", rows)
    student = {"backbone": str(models["hubert"]), "layers": 2, "frozen": 2, "probe": 0.5, "embedding_dim": 8}
    sections = {"student": student, "linguistic": {"encoder": "scratch"}}
    recipe = make.recipe(listed, corpus={"audio_root": str(three.parent)}, **sections)
    message = r"student\.probe needs every emotion in training: training of fold . lacks \['happy'\]; unset"
    with pytest.raises(ConfigError, match=message):
        crossval(recipe, tmp_path / "run")
    # Folds that are not trained are not checked.
    complete = [
        fold.name
        for fold in read_data(recipe).protocol.folds
        if any(u.emotion == "happy" and u.id in fold.train for u in read_data(recipe).corpus)
    ]
    assert complete
    assert check_recipe(recipe, complete)


@pytest.mark.usefixtures("no_training")
def test_out_of_fold_targets_need_two_training_speakers(tmp_path: Path) -> None:
    listed = make.corpus_folder(tmp_path / "corpus", speakers=3)
    recipe = make.recipe(listed, distillation={"targets": "out-of-fold"})
    with pytest.raises(
        ConfigError, match="at least two training speakers, got 1 for the prosodic teacher in fold 1"
    ):
        crossval(recipe, tmp_path / "run")


@pytest.mark.usefixtures("no_training")
def test_a_leak_by_the_weights_of_the_start_is_found_before_training(
    run: Path, manifest: Path, exported: Path, tmp_path: Path
) -> None:
    for init in (run / "fold-2/select/student", exported):
        recipe = make.recipe(manifest, student={"init": str(init)})
        with pytest.raises(LeakError, match="the initial student teacher was trained on held-out"):
            crossval(recipe, tmp_path / "run")


@pytest.mark.usefixtures("no_training")
def test_a_leak_is_found_where_the_start_names_the_corpus_before_its_ids(
    run: Path, manifest: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(run / "fold-2/select/student", start)
    description = json.loads((start / "model.json").read_text())
    description["training_ids"] = [f"fake/{name}" for name in description["training_ids"]]
    (start / "model.json").write_text(json.dumps(description))
    with pytest.raises(LeakError, match="'fake/"):
        crossval(make.recipe(manifest, student={"init": str(start)}), tmp_path / "run")


def test_a_finished_run_is_collected_without_its_backbone(
    models: dict[str, Path], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hubert"
    shutil.copytree(models["hubert"], folder)
    student = {"backbone": str(folder), "layers": 1, "frozen": 1, "optim": {**make.OPTIM, "epochs": 1}}
    recipe = make.recipe(manifest, student=student, distillation={"teachers": []}, protocol={"refit": False})
    scores = crossval(recipe, tmp_path / "run", ["1"])
    shutil.rmtree(folder)
    monkeypatch.setattr(FoldRun, "_train_new", None)
    assert crossval(recipe, tmp_path / "run", ["1"]) == scores
    with pytest.raises(ModelError, match="hubert': no such folder"):
        crossval(recipe, tmp_path / "run", ["2"])


# --- teachers without input --------------------------------------------------------------------------


@pytest.mark.usefixtures("no_training")
def test_a_teacher_without_input_stops_the_run(silent: Path, tmp_path: Path) -> None:
    message = (
        r"no training utterance of 'fake' has a transcript; add transcripts \(--set corpus\.transcripts=FILE"
        r".*'distillation\.teachers=\[\"prosodic\"\]'.*distillation\.allow_missing_teachers=true"
    )
    for start in (
        lambda: crossval(make.recipe(silent), tmp_path / "run"),
        lambda: ablate(make.recipe(silent), tmp_path / "grid"),
    ):
        with pytest.raises(ConfigError, match=message):
            start()
    assert not (tmp_path / "run").exists()
    assert prepare_run(make.recipe(silent, distillation={"teachers": ["prosodic"]}), tmp_path / "run")


@pytest.mark.usefixtures("no_training")
def test_a_fold_without_transcripts_is_named(manifest: Path, tmp_path: Path) -> None:
    (first, *_) = read_data(make.recipe(manifest)).protocol.folds
    rows = [
        {
            **row,
            "path": manifest.parent / row["path"],
            "transcript": row["transcript"] * (row["id"] in first.test),
        }
        for row in make.read_rows(manifest)
    ]
    listed = make.write_rows(tmp_path / "utterances.csv", rows)
    with pytest.raises(ConfigError, match="no training utterance of fold 1, 3 of 'fake' has a transcript"):
        crossval(make.recipe(listed), tmp_path / "run")


def test_transcripts_that_are_partly_missing_are_counted(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = check_recipe(make.recipe(manifest))
    rows = make.read_rows(manifest)
    empty = {row["id"] for row in rows if not row["transcript"]}
    assert 0 < len(empty) < len(rows)
    told = " ".join(capsys.readouterr().err.split())
    assert f"{len(empty)} of {len(rows)} utterances have no transcript" in told
    for fold in checked.data.protocol.folds:
        count = len(empty.intersection(fold.train))
        assert f"{count} of {len(fold.train)} in fold {fold.name}" in told
    assert checked.recipe.name == "tiny"

    check_recipe(make.recipe(manifest, distillation={"teachers": ["prosodic"]}))
    assert "transcript:" not in capsys.readouterr().err


def test_a_run_that_may_lack_a_teacher_says_so_everywhere(
    emodistill: make.CommandLine, silent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emodistill.config import load_recipe, recipe_toml

    monkeypatch.chdir(tmp_path)
    spoken = {"id": next(iter(read_manifest(silent))).id, "start_s": 0.0, "end_s": 0.2, "word": "yes"}
    words = make.write_rows(tmp_path.with_name(f"{tmp_path.name}-words.csv"), [spoken])
    optim = {**make.OPTIM, "epochs": 1}
    recipe = make.recipe(
        silent, protocol={"refit": False}, prosodic={"optim": optim},
        student={"optim": optim}, corpus={"words": str(words)},
        distillation={"allow_missing_teachers": True, "words": 1.0},
    )  # fmt: skip
    Path("tiny.toml").write_text(recipe_toml(recipe))
    name = "tiny-without-linguistic"
    for _ in range(2):  # the second time, it is the same run
        result = emodistill("train", "tiny.toml")
        assert result.code == 0, result.err
        assert f"the run is named '{name}'" in result.err
    (folder,) = Path("runs").iterdir()
    assert folder.name == f"{name}-seed0"
    used = load_recipe(folder / "recipe.toml").distillation
    assert (used.teachers, used.words) == (("prosodic",), 0.0), "the word level goes with its teacher"
    assert set(json.loads((folder / "scores.json").read_text())["models"]) == {"student", "prosodic"}
    for command in (["scores", folder], ["report", folder, "-o", "report.html"]):
        result = emodistill(*command)
        assert result.code == 0, result.err
        text = result.out + (Path("report.html").read_text() if command[0] == "report" else "")
        assert name in text
        assert "linguistic" not in result.out.replace(name, "")
    # From the recipe of the run folder it continues too.
    assert emodistill("train", folder / "recipe.toml", "-o", folder).code == 0


def test_a_grid_that_may_lack_a_teacher_leaves_its_cells_out(silent: Path, tmp_path: Path) -> None:
    from emodistill.config import load_recipe

    optim = {**make.OPTIM, "epochs": 1}
    recipe = make.recipe(
        silent, protocol={"refit": False}, prosodic={"optim": optim},
        student={"optim": optim}, distillation={"allow_missing_teachers": True},
    )  # fmt: skip
    table = ablate(recipe, tmp_path / "grid", only=["no-distillation", "linguistic-only"])
    assert table.left_out == {"linguistic-only": "no training utterance has a transcript"}
    full = load_recipe(tmp_path / "grid/cells/full/seed-0/recipe.toml")
    assert (full.name, full.distillation.teachers) == ("tiny-without-linguistic", ("prosodic",))
    with pytest.raises(
        ConfigError, match=r"has a linguistic teacher, but no training utterance has a transcript"
    ):
        ablate(recipe, tmp_path / "grid", sweeps=['distillation.teachers=["linguistic"]'], parts=False)
