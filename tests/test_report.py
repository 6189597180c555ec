"""The page: complete, without other files, escaped, and with notes on what it lacks."""

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from factories_runs import invented_run
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.corpora import Utterance, read_manifest
from emodistill.errors import ModelError
from emodistill.evaluation.ablation_systems import System, teacher_systems
from emodistill.evaluation.ablation_table import make_ablation_table, read_ablation
from emodistill.evaluation.cost import ModelCost, RunCost
from emodistill.evaluation.predictions import read_predictions, write_predictions
from emodistill.evaluation.run import read_run, write_utterances
from emodistill.evaluation.sweeps import choose_on_dev
from emodistill.inference.model_card import file_sha256
from emodistill.report.build import clip, trainings, write_report
from emodistill.report.charts import Plot, bars, stacked, ticks
from emodistill.report.figures import learning_curves
from emodistill.training.fit import FitResult

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """The elements of a page, after checking that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def page(out: Path) -> Page:
    return Page(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, run: Path) -> tuple[Path, list[str]]:
    """A page of one run, and its notes."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    return out, write_report([run], out, num_errors=4)


def test_the_page_needs_no_other_file(report: tuple[Path, list[str]]) -> None:
    text = report[0].read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", text), "nothing is fetched"
    assert not re.search(r"url\(|@import|<script|<link", text)
    found = page(report[0])
    (policy,) = [item["content"] for item in found.all("meta") if item.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    anchors = {item["id"] for _, item in found.found if item.get("id")}
    assert {item["href"] for item in found.all("a")} <= {f"#{name}" for name in anchors}
    assert [path.name for path in report[0].parent.iterdir()] == ["report.html"]


def test_the_page_shows_the_run_and_its_scores(run: Path, report: tuple[Path, list[str]]) -> None:
    found, opened_run = page(report[0]), read_run(run)
    assert opened_run.protocol.hash in found.text
    assert 'backbone = "compact"' in found.text
    scores = read_predictions(run / "predictions.csv").scores()
    assert f"{100 * scores.ua:.1f}" in found.text
    for words in (
        "Confusion",
        "Learning curves",
        "Map of embeddings",
        "highest confidence",
        "both correct",
        "reliab",
    ):
        assert words.lower() in found.text.lower()
    matrices = [item for item in found.all("table") if item.get("class") == "confusion"]
    assert len(matrices) == 3, "of the student and both teachers"
    images = [item["aria-label"] for item in found.all("svg")]
    for model in ("student", "prosodic", "linguistic"):
        assert f"{model}: dev UA by epoch" in images
        assert f"{model}: training loss by epoch" in images
    assert report[1]
    assert all(note.removeprefix(f"{opened_run.name}: ") in found.text for note in report[1])


def test_every_chart_is_well_formed(report: tuple[Path, list[str]]) -> None:
    charts = re.findall(r"<svg.*?</svg>", report[0].read_text(encoding="utf-8"), re.DOTALL)
    assert len(charts) >= 12
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert len(root) > 0
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for dot in root.iter("circle"):
            assert 0 <= float(dot.attrib["cx"]) <= width
            assert 0 <= float(dot.attrib["cy"]) <= height


def test_the_most_confident_errors_have_sound(run: Path, report: tuple[Path, list[str]]) -> None:
    sounds = page(report[0]).all("audio")
    table = read_predictions(run / "predictions.csv")
    assert len(sounds) == min(4, int(np.sum(table.predicted != table.truth)))
    for item in sounds:
        data = (item["src"] or "").removeprefix("data:audio/mpeg;base64,")
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        assert rate == 16_000
        assert 0.2 < len(samples) / rate < 1.2
        assert np.abs(samples).max() > 0.1


def test_a_clip_is_the_segment_and_small(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(16_000), make.speech(20.0, seed=1)]).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, 16_000)
    segment = clip(Utterance("a", "s", "sad", tmp_path / "a.wav", start_s=1.0, end_s=3.0))
    assert segment is not None
    data = base64.b64decode(segment.partition(",")[2])
    samples, rate = soundfile.read(io.BytesIO(data))
    assert len(samples) / rate == pytest.approx(2.0, abs=0.15)
    assert len(data) < 2 * 5000, "about 32 kbit/s"
    whole = clip(Utterance("a", "s", "sad", tmp_path / "a.wav"))
    assert whole is not None
    assert len(whole) < 12 * 5000 * 4 / 3 + 1000
    assert clip(Utterance("a", "s", "sad")) is None


def test_without_audio_the_page_has_no_sound(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["report", str(run), "-o", str(tmp_path / "r.html"), "--no-audio", "--errors", "2"]
    )
    assert result.exit_code == 0, result.output
    found = page(tmp_path / "r.html")
    assert not found.all("audio")
    assert len(found.all("article")) == 2


def test_missing_files_are_noted(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "thin"
    shutil.copytree(run, there)
    for fold in there.glob("fold-*"):
        shutil.rmtree(fold)
    rows = make.read_rows(there / "utterances.csv")
    make.write_rows(there / "utterances.csv", [{**row, "path": f"/gone/{row['id']}.wav"} for row in rows])
    notes = " ".join(write_report([there], tmp_path / "r.html"))
    assert (
        "Learning curves are incomplete: 9 files are missing, first fold-1/select/student/fit.json" in notes
    )
    assert re.search(
        r"No map of embeddings: the audio of 12 test utterances of fold 1 is missing, first /gone/", notes
    )
    assert "of the errors have no sound" in notes
    found = page(tmp_path / "r.html")
    assert not found.all("audio")
    assert "is missing" in found.text


def test_a_fold_without_its_student_has_no_map(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "thin"
    shutil.copytree(run, there)
    weights = there / "fold-2/refit/student/model.safetensors"
    for remove in (weights.unlink, lambda: shutil.rmtree(weights.parent)):
        remove()
        notes = write_report([there], tmp_path / "r.html", fold="2")
        assert any("No map of embeddings: the student of fold 2 is missing" in note for note in notes)


def test_several_runs_are_compared(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "other"
    shutil.copytree(run, there)
    recipe = (there / "recipe.toml").read_text()
    (there / "recipe.toml").write_text(recipe.replace("temperature = 2.0", "temperature = 5.0"))
    write_report([run, there], tmp_path / "r.html", num_errors=0)
    found = page(tmp_path / "r.html")
    assert "distillation.temperature" in found.text
    assert "p, Holm" in found.text
    assert "Differences in UA to the reference" in [item["aria-label"] for item in found.all("svg")]
    assert {"run-1", "run-2"} <= {item.get("id") for item in found.all("h2")}


def test_names_are_escaped(run: Path, tmp_path: Path) -> None:
    there, name = tmp_path / "odd", '<script>alert("&")</script>'
    shutil.copytree(run, there)
    table = read_predictions(there / "predictions.csv")
    odd = {table.speakers[0]: name}
    speakers = tuple(odd.get(speaker, speaker) for speaker in table.speakers)
    write_predictions(replace(table, speakers=speakers), there / "predictions.csv")
    corpus = read_manifest(there / "utterances.csv")
    renamed = tuple(
        replace(item, speaker=odd.get(item.speaker, item.speaker), transcript=name) for item in corpus
    )
    write_utterances(replace(corpus, utterances=renamed), there)
    scores = json.loads((there / "scores.json").read_text())
    scores["sha256"] = {"predictions.csv": file_sha256(there / "predictions.csv")}
    del scores["models"]["prosodic"], scores["models"]["linguistic"], scores["models"]["student"]["dev"]
    (there / "scores.json").write_text(json.dumps(scores))
    write_report([there], tmp_path / "r.html")
    assert "<script" not in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert name in page(tmp_path / "r.html").text


def test_an_edited_run_is_refused(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "edited"
    shutil.copytree(run, there)
    with (there / "predictions.csv").open("a", encoding="utf-8") as file:
        file.write("x,1,s,sad,sad,0.2,0.8\n")
    with pytest.raises(ModelError, match=r"predictions\.csv', row 38: 'x' is not in test of fold 1"):
        write_report([there], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_learning_curves_are_those_of_training_on_train_alone(run: Path) -> None:
    notes: list[str] = []
    found = trainings(read_run(run), notes)
    assert not notes
    assert list(found) == ["student", "prosodic", "linguistic"]
    for folds in found.values():
        assert list(folds) == ["1", "2", "3"]
        assert all("dev_ua" in row for result in folds.values() for row in result.history)


def test_the_learning_curve_shows_the_epoch_that_was_kept(run: Path, report: tuple[Path, list[str]]) -> None:
    text = page(report[0]).text
    for model, folds in trainings(read_run(run), []).items():
        each = ", ".join(f"{result.epochs} (fold {fold})" for fold, result in folds.items())
        assert f"Kept: the weights after epoch {each}." in text
        (item,) = learning_curves({model: folds})
        rings = [
            title.text
            for circle in ElementTree.fromstring(item["dev"]).iter("circle")
            if "kept" in circle.attrib["class"]
            for title in circle
        ]
        assert rings == [
            f"fold {fold} kept epoch {result.epochs}: dev UA {100 * (result.dev_ua or 0):.1f} %"
            for fold, result in folds.items()
        ]


def test_a_training_without_dev_says_how_long_it_went() -> None:
    result = FitResult(3, None, [{"epoch": float(epoch), "loss": 1.0} for epoch in (1, 2, 3)])
    (item,) = learning_curves({"student": {"1": result}})
    assert item["dev"] is None
    assert item["kept"] == "Kept: the weights after epoch 3 of 3."


# --- charts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (1, 8), (0, 100), (23.4, 61.2), (0, 0.0031), (-5, 5), (3, 3)]
)
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    values = ticks(low, high)
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in values)
    assert 1 <= len(values) <= 11
    assert len(set(np.round(np.diff(values), 9))) <= 1


def test_axes_point_right_and_up() -> None:
    plot = Plot((0, 10), (0, 1))
    assert plot.at(10, 0)[0] > plot.at(0, 0)[0]
    assert plot.at(0, 1)[1] < plot.at(0, 0)[1]
    plot.line([(3, 0.5)], "series-1")
    assert "circle" in plot.svg("one point")


def test_bars_and_parts_are_as_long_as_their_shares() -> None:
    root = ElementTree.fromstring(bars([("a", 0.5, ""), ("b", 1.0, "")], 0.7, "two"))
    widths = [float(item.attrib["width"]) for item in root.iter("rect")]
    assert widths[1] == pytest.approx(2 * widths[0])
    root = ElementTree.fromstring(stacked([("a", 0.25, "x"), ("b", 0.75, "y")], "two"))
    (first, second) = list(root.iter("rect"))
    assert float(second.attrib["x"]) == pytest.approx(float(first.attrib["width"]), abs=0.1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two systems with two seeds each, seven emotions and long names."""
    folder = tmp_path_factory.mktemp("wide")
    teachers: dict[str, dict[str, float]] = {"plain": {}, "both-teachers-and-a-long-name": {"prosodic": 0.4}}
    return [
        invented_run(folder / f"{name}-seed{seed}", 0.5, teachers[name], seed=seed)
        for name in teachers
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def wide_report(invented: list[Path]) -> Path:
    """A page of these runs."""
    out = invented[0].parent / "report.html"
    write_report(invented, out, num_errors=2)
    return out


def test_seeds_are_a_group_with_their_mean_and_each_run(invented: list[Path], wide_report: Path) -> None:
    found = page(wide_report)
    assert [item.get("id") for item in found.all("h2")] == ["compared", "run-1", "run-2"]
    text = " ".join(found.text.split())
    for runs in (invented[:2], invented[2:]):
        values = [read_predictions(run / "predictions.csv").scores().ua for run in runs]
        mean, sd = 100 * np.mean(values), 100 * np.std(values, ddof=1)
        assert f"{mean:.1f}± {sd:.1f}" in text, "the mean over seeds, and their standard deviation"
        assert f"{mean:.2f}± {sd:.2f}" in text
        for seed, ua in enumerate(values):
            assert f"Show the run with seed {seed}: UA {100 * ua:.1f} %" in text
    anchors = {item.get("id") for item in found.all("details")}
    assert {"run-1-seed-0", "run-1-seed-1", "run-2-seed-0", "run-2-seed-1"} <= anchors


def test_costs_stand_beside_ua(invented: list[Path], tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(run, tmp_path / run.name)) for run in invented]
    for seed, run in enumerate(runs[:2]):
        student = ModelCost(parameters=1_500_000, macs=2_000_000_000, latency_ms=10.0 + 2 * seed)
        RunCost({"student": student}, {"cpu": "Some CPU"}).write(run)
    write_report(runs, tmp_path / "r.html", num_errors=0)
    text = " ".join(page(tmp_path / "r.html").text.split())
    ua = np.mean([read_predictions(run / "predictions.csv").scores().ua for run in runs[:2]])
    assert f"{100 * ua:.2f}1.50 M2.00 G11.0" in text, "UA, parameters, MACs, and the mean of ms over seeds"
    assert "Some CPU" in text
    assert "cost" in [item.get("id") for item in page(tmp_path / "r.html").all("h2")]


def test_a_link_to_a_run_of_a_group_opens_it(browser: Any, wide_report: Path) -> None:
    shown = browser.new_page(viewport={"width": 390, "height": 900})
    shown.goto(wide_report.as_uri())
    assert not shown.locator("#run-2-seed-1 h3").first.is_visible()
    shown.locator('a[href="#run-2-seed-1"]').first.click()
    shown.locator("#run-2-seed-1 summary").first.click()
    assert shown.locator("#run-2-seed-1 h3").first.is_visible()
    shown.close()


def test_an_ablation_shows_its_table_its_plot_and_the_full_method(tmp_path: Path) -> None:
    cells = {
        "full": (0.6, {}),
        "no-distillation": (0.5, {"alpha": 0.5}),
        "temperature=8": (0.6, {"temperature": 8}),
    }
    for cell, (accuracy, settings) in cells.items():
        for seed in (0, 1):
            invented_run(
                tmp_path / "cells" / cell / f"seed-{seed}", accuracy, seed=seed, distillation=settings
            )
    runs = {cell: [read_run(tmp_path / "cells" / cell / f"seed-{seed}") for seed in (0, 1)] for cell in cells}
    systems = [
        System(
            cell, "distillation.temperature" if "=" in cell else "parts", cell, [run.table() for run in found]
        )
        for cell, found in runs.items()
    ]
    table = make_ablation_table([*systems, *teacher_systems(runs["full"])], "full", resamples=500)
    swept = choose_on_dev(("full", [0.5, 0.6]), {"distillation.temperature": {"temperature=8": [0.6, 0.6]}})
    replace(table, sweeps=swept).write(tmp_path)
    assert read_ablation(tmp_path / "ablation.json") == replace(table, sweeps=swept)
    write_report([tmp_path], tmp_path / "r.html", num_errors=0)
    found = page(tmp_path / "r.html")
    assert [item.get("id") for item in found.all("h2")] == ["ablation-1", "run-1"]
    assert "Differences to full in UA" in [item["aria-label"] for item in found.all("svg")]
    for row in table.rows:
        assert all(cell in found.text for cell in table.cells(row))
    assert "chosen on dev" in found.text
    assert all(note in found.text for note in table.notes())
    assert {"run-1-seed-0", "run-1-seed-1"} <= {item.get("id") for item in found.all("details")}
    (tmp_path / "ablation.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"ablation\.json' is no table of an ablation"):
        write_report([tmp_path], tmp_path / "r.html")


def test_seeds_are_one_group_in_the_comparison(wide_report: Path) -> None:
    text = " ".join(Page(wide_report.read_text(encoding="utf-8")).text.split())
    assert "both-teachers-and-a-long-name, seeds 0 1" in text
    assert "detectable" in text
    assert "McNemar's test is left out for groups" in text


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_every_column_can_be_reached_at_any_width(browser: Any, wide_report: Path, width: int) -> None:
    shown = browser.new_page(viewport={"width": width, "height": 900})
    shown.goto(wide_report.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    tables = shown.evaluate(
        """async () => {
            document.querySelectorAll("details").forEach((item) => { item.open = true; });
            const frame = () => new Promise((done) => requestAnimationFrame(done));
            await frame();  // the line on more columns appears with the next frame
            await frame();
            return [...document.querySelectorAll("table")].map((table) => {
                const box = table.parentElement;
                const hint = parseFloat(getComputedStyle(box, "::before").height);
                const hidden = box.scrollWidth - box.clientWidth;
                box.scrollLeft = hidden;
                const inner = box.getBoundingClientRect();
                const lasts = [...table.rows].map((row) => row.cells[row.cells.length - 1]);
                const firsts = [...table.rows].map((row) => row.cells[0]);
                return {
                    name: box.ariaLabel, hidden, hint, focus: box.tabIndex,
                    right: Math.max(...lasts.map((cell) => cell.getBoundingClientRect().right)) - inner.right,
                    left: Math.min(...firsts.map((cell) => cell.getBoundingClientRect().left)) - inner.left,
                    cut: [...table.querySelectorAll("td, th")]
                        .filter((cell) => cell.scrollWidth > cell.clientWidth + 1)
                        .map((cell) => cell.innerText),
                };
            });
        }"""
    )
    assert {"Comparison of runs", "Scores", "Confusion", "Calibration"} <= {item["name"] for item in tables}
    for item in tables:
        assert item["right"] <= 1, f"{item['name']}: the last column ends inside of the box"
        assert item["left"] >= -1, f"{item['name']}: the names of the rows stay in sight"
        assert item["focus"] == 0, "the keyboard can scroll it"
        assert (item["hint"] > 5) == (item["hidden"] > 0), f"{item['name']}: a line says that there is more"
        assert not item["cut"], item["name"]
    assert any(item["hidden"] > 0 for item in tables) or width > 1000
    shown.close()


def test_every_column_is_on_paper(browser: Any, wide_report: Path) -> None:
    shown = browser.new_page(viewport={"width": 700, "height": 900})
    shown.emulate_media(media="print")
    shown.goto(wide_report.as_uri())
    ends = shown.evaluate(
        '[...document.querySelectorAll("td, th")].map((cell) => cell.getBoundingClientRect().right)'
    )
    assert max(ends) <= 701
    shown.close()


WIDTHS = {"phone": (390, "screen"), "desk": (1280, "screen"), "paper": (700, "print")}


@pytest.mark.parametrize("where", WIDTHS)
def test_the_page_fits_phone_desk_and_paper(browser: Any, report: tuple[Path, list[str]], where: str) -> None:
    width, medium = WIDTHS[where]
    shown = browser.new_page(viewport={"width": width, "height": 900})
    shown.emulate_media(media=medium)
    requested: list[str] = []
    shown.on("request", lambda request: requested.append(request.url))
    shown.goto(report[0].as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= width, (
        "no part lies to the right of the page"
    )
    assert all(url.startswith(("file:", "data:")) for url in requested), "no network"
    pieces = shown.evaluate(
        """[...document.querySelectorAll("h2, h3, svg, .wide, article")].map((item) => {
            const box = item.getBoundingClientRect();
            return [item.tagName, box.left, box.right, box.height];
        })"""
    )
    assert {"H2", "SVG", "ARTICLE"} <= {name.upper() for name, *_ in pieces}
    for name, left, right, height in pieces:
        assert left >= -1, name
        assert right <= width + 1, name
        assert height > 0, name
    details_shown = shown.evaluate(
        """[...document.querySelectorAll("details:not([open]) pre, details:not([open]) table")]
            .map((item) => item.checkVisibility())"""
    )
    assert details_shown
    assert set(details_shown) == {medium == "print"}, "closed on a screen, open on paper"
    shown.close()
