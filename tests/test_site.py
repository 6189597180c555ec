"""The documentation site: its pages state what the code does, and it works without a network."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories_runs import invented_run
from factories_scripts import ROOT, load_script
from factories_serving import SPEECH, upload
from fastapi.testclient import TestClient

import emodistill
from emodistill import Prediction, Recognizer, Segment, SpeechEnded, SpeechStarted, Timeline, WindowUpdate
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run
from emodistill.inference.model_card import BUNDLED, read_card
from emodistill.serving.app import create_app
from emodistill.serving.settings import Settings

reference, notebooks = load_script("site_reference"), load_script("notebooks")
JSON_PAGE = (ROOT / "docs/reference/json.md").read_text(encoding="utf-8")


def documented(kind: str) -> tuple[set[str], set[str]]:
    """The fields of a kind of JSON, and those of them that always stand."""
    rows = reference.fields(kind)
    return {row.name for row in rows}, {row.name for row in rows if not row.optional}


def documented_by_hand(title: str) -> tuple[set[str], set[str]]:
    """The same for a section of the page whose table a person writes."""
    section = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", JSON_PAGE, flags=re.M | re.S)
    assert section is not None
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.*) \|$", section[1], flags=re.M)
    assert rows
    return {name for name, _ in rows}, {name for name, meaning in rows if "*optional*" not in meaning}


def check(kind: str, *written: Mapping[str, Any]) -> None:
    """Fail where the written objects have other fields than the page documents."""
    known, always = documented(kind)
    for data in written:
        assert set(data) <= known, f"{kind}: the page lacks {set(data) - known}"
        assert always <= set(data), f"{kind}: the code does not write {always - set(data)}"
    union = set().union(*written)
    assert union == known, f"{kind}: the code never writes {known - union}"


# --- JSON ------------------------------------------------------------------------------------------

EXTRAS: dict[str, Any] = {
    "surety": "unsure", "dimensions": {"arousal": 0.5}, "dimensions_from": "emotions", "channel": 0,
    "voice_utterances": 3,
}  # fmt: skip


def test_predictions_and_timelines_have_the_documented_fields() -> None:
    full = Prediction(
        "a.wav", "sad", 0.5, {"sad": 0.5}, teachers={}, id="1", start_s=0, end_s=1, speaker="a", **EXTRAS
    )
    check("prediction", Prediction("a.wav").as_dict(), full.as_dict())
    bare = Segment(0, 1, None, None, {})
    segment = replace(bare, speaker="a", text="hello", **EXTRAS)
    check("segment", bare.as_dict(), segment.as_dict())
    check("timeline", Timeline("a.wav").as_dict(), Timeline("a.wav", speakers={}).as_dict())


def test_events_have_the_documented_fields() -> None:
    update = WindowUpdate(0, 1, {})
    extras = {name: value for name, value in EXTRAS.items() if name not in ("surety", "channel")}
    check("update", update.as_dict(), replace(update, emotion="sad", **extras).as_dict())
    check("speech-started", SpeechStarted(1).as_dict())
    check("speech-ended", SpeechEnded(1).as_dict())


def test_a_voice_and_the_card_have_the_documented_fields() -> None:
    check("voice", Recognizer("bundled").enrol(SPEECH[:1]).as_dict())
    card = read_card(BUNDLED).model_dump(mode="json")
    check("card", card)
    check("data-source", *card["data"])
    check("coverage-point", *card["coverage"])
    check("accuracy-point", *card["accuracy"])


def test_the_server_answers_with_the_documented_fields() -> None:
    with TestClient(create_app(Settings(threads=1))) as client:
        models = client.get("/v1/models").json()
        check("models", models)
        check("model", *models["models"])
        check("health", client.get("/readyz").json())
        known, always = documented("prediction")
        (row,) = client.post("/v1/predict", files=upload(SPEECH[0])).json()
        assert always <= set(row) <= known
        check("enrolled-voice", client.post("/v1/voices", files=upload(SPEECH[0])).json())
        problem = client.post("/v1/predict", files=upload(SPEECH[0]), data={"channel": "left"}).json()
        known, always = documented("problem")
        assert always | {"errors"} <= set(problem) <= known
        check("field-problem", *problem["errors"])
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_json({"rate": 16_000})
            started = socket.receive_json()
            socket.send_bytes(np.zeros(16_000, np.int16).tobytes())
            socket.send_json({"type": "end"})
            summary = socket.receive_json()
        for title, event in {"Started": started, "Summary": summary}.items():
            assert set(event) == documented_by_hand(title)[0]


def test_a_run_has_the_documented_scores(tmp_path: Path) -> None:
    run = invented_run(tmp_path / "run", targets=["emotion", "arousal"])
    scores = score_run(read_run(run), resamples=100).as_dict()
    check("run-scores", scores)
    check("model-scores", *scores["models"])
    check("estimate", scores["models"][0]["scores"]["ua"])
    check("agreement", *scores["agreement"])
    check("calibration", *scores["calibration"].values())
    check("reliability-bin", *scores["calibration"]["before"]["reliability"])
    check("group", *(group for groups in scores["groups"].values() for group in groups))
    check("run-dimensions", scores["dimensions"])
    check("model-dimensions", *scores["dimensions"]["models"])
    check("dimension-score", *scores["dimensions"]["models"][0]["dimensions"].values())

    stored = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    known, always = documented_by_hand("scores.json")
    assert always <= set(stored) <= known
    for splits in stored["models"].values():
        for split in splits.values():
            assert set(split) == documented_by_hand("Scores of a split")[0]
            for table in (split["pooled"], *split["by_fold"].values()):
                assert set(table) == documented_by_hand("Scores of a table")[0]


@pytest.mark.parametrize("kind", reference.KINDS)
def test_every_kind_of_json_has_a_table_with_types_and_meanings(kind: str) -> None:
    assert f"<!-- fields {kind} -->" in JSON_PAGE
    assert re.search(rf"^#+ {kind.replace('-', ' ')}$", JSON_PAGE, flags=re.M | re.I)
    for field in reference.fields(kind):
        assert field.meaning
        assert reference.json_type(field.hint)
        if field.name.endswith("_s") and field.name != "training_s":
            assert field.unit == "s"


def test_a_field_without_a_meaning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reference.MEANINGS, "prediction", {"emotion": ""})
    with pytest.raises(ValueError, match=r"Prediction\.emotion has no meaning"):
        reference.fields("prediction")


def test_each_section_of_a_recipe_is_named_as_a_recipe_names_it() -> None:
    names = re.findall(r"^## \[(.+?)\]", reference.recipe_sections(), re.MULTILINE)
    assert {"student", "student.words_first", "acoustic"} <= set(names)
    assert not [name for name in names if name.startswith("acoustic.")]


def test_comments_beside_and_above_a_field_are_its_meaning() -> None:
    source = (
        "class A:\n    # Above,\n    # in two lines.\n    a: int\n    b: int = 1  # beside\n    c: int\n"
        "    # Of a long one.\n    d: tuple[\n        int\n    ]  # fmt: skip\n"
    )
    assert dict(reference.field_comments(source)) == {
        "a": "Above, in two lines.", "b": "beside", "d": "Of a long one.",
    }  # fmt: skip


# --- the built site --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def html(folder: Path) -> Iterator[tuple[Path, str]]:
    """All pages of a site."""
    for path in sorted(folder.rglob("*.html")):
        yield path, path.read_text(encoding="utf-8")


def test_the_site_loads_nothing_from_other_servers_and_names_no_path_of_this_machine(site: Path) -> None:
    for path, text in html(site):
        loaded = re.findall(
            r"<(?:script|img|link|iframe|audio|source)\b[^>]*?(?:src|href)=\"?([^\s\">]+)", text
        )
        assert not [target for target in loaded if re.match(r"(https?:)?//", target)], path
        assert str(ROOT) not in text, path
        assert sys.prefix not in text, path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_every_public_name_verb_and_how_to_has_a_place(site: Path) -> None:
    python = "".join(text for path, text in html(site) if "reference/python" in path.as_posix())
    for name in set(emodistill.__all__) - {"__version__"}:
        assert re.search(rf"id=\"?emodistill\.([\w.]+\.)?{name}[\"\s>]", python), name
    for verb, text in reference.cli_pages().items():
        assert (site / f"reference/cli/{verb or 'index'}.html").is_file()
        assert text.startswith("# ")
    home = (site / "index.html").read_text(encoding="utf-8")
    how_tos = (site / "how-to/index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs/how-to").glob("*.md"):
        assert f"how-to/{page.stem}.html" in home
        assert page.stem == "index" or f"{page.stem}.html" in how_tos


def test_sections_of_the_readme_are_included_with_working_links(site: Path) -> None:
    text = (site / "overview.html").read_text(encoding="utf-8")
    assert "emodistill timeline call.wav" in text
    assert re.search(r"href=\"?serving\.html", text)
    assert "../README.md" not in text


def test_links_inside_an_included_text_stay_on_the_page(site: Path) -> None:
    text = (site / "about/security.html").read_text(encoding="utf-8")
    assert re.search(r"href=\"?#the-hub\b", text)
    assert re.search(r"id=\"?the-hub\b", text)


def test_a_link_to_a_page_shows_its_title_and_not_its_file_name(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert re.search(r"href=\"?voices\.html\"?>Voices</a>", home)
    for path, text in html(site):
        links = re.findall(r"<a [^>]*href=\"?([^\s\">]+)[^>]*>[\w./-]+\.md</a>", text)
        assert all("source/" in link for link in links) or "source" in path.relative_to(site).parts, path


# --- notebooks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in notebooks.NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    path = notebooks.NOTEBOOKS / f"{name}.ipynb"
    notebook = notebooks.execute(path, tmp_path)
    stored = notebooks.nbformat.read(path, as_version=4)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in stored.cells]
    for new, old in zip(notebook.cells, stored.cells, strict=True):
        assert bool(new.get("outputs")) == bool(old.get("outputs")), "run python scripts/notebooks.py"


def test_a_failing_cell_fails_the_notebook(tmp_path: Path) -> None:
    cells = [notebooks.nbformat.v4.new_code_cell("1 / 0")]
    path = tmp_path / "bad.ipynb"
    notebooks.nbformat.write(notebooks.nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        notebooks.execute(path, tmp_path)


def test_a_path_of_this_machine_in_an_output_is_refused(tmp_path: Path) -> None:
    cells = [notebooks.nbformat.v4.new_code_cell("import os; print(os.getcwd())")]
    path = tmp_path / "bad.ipynb"
    notebooks.nbformat.write(notebooks.nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(ValueError, match="an output holds the path"):
        notebooks.execute(path, tmp_path)
