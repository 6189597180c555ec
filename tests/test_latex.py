"""Tables of LaTeX: complete, escaped, with the figures of the other tables, bold where significant."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import factories as make
import pytest
from factories_runs import invented_corpus, invented_run
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.evaluation.ablation_systems import System, teacher_systems
from emodistill.evaluation.ablation_table import AblationTable, make_ablation_table
from emodistill.evaluation.compare import Comparison, Difference, McNemar, compare_runs
from emodistill.evaluation.cost import ModelCost, RunCost
from emodistill.evaluation.latex import ablation_latex, comparisons_latex, escape, scores_latex
from emodistill.evaluation.run import Run, read_run
from emodistill.evaluation.scores import score_run
from emodistill.evaluation.tables import format_percent

TEX = shutil.which("tectonic") or shutil.which("pdflatex")
DOCUMENT = r"\documentclass[conference]{IEEEtran}\usepackage{booktabs}\begin{document}%s\end{document}"
SPECIAL = re.compile(r"(?<!\\)[&%#_~^]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three systems: a clearly better one, and two that are alike. One has signs in its name."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = invented_corpus(each=8)
    accuracies = {"plain_50%": 0.5, "other": 0.5, "much-better&longer-name-of-a-system": 0.85}
    return [
        invented_run(folder / name, accuracy, corpus=corpus, distillation={"temperature": 1.0 + place})
        for place, (name, accuracy) in enumerate(accuracies.items())
    ]


def table_rows(text: str) -> list[list[str]]:
    """The cells of the table's rows, after checks of its structure."""
    assert text.count("{") == text.count("}")
    opened = re.findall(r"\\(begin|end)\{([\w*]+)\}", text)
    kind = "table*" if "{table*}" in text else "table"
    assert opened == [("begin", kind), ("begin", "tabular"), ("end", "tabular"), ("end", kind)]
    assert [text.count(rf"\{rule}rule") for rule in ("top", "bottom")] == [1, 1]
    assert len(re.findall(r"^\\caption\{.+\}$", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^\\label\{tab:[a-z0-9-]+\}$", text, re.MULTILINE)) == 1
    (spec,) = re.findall(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text)
    num_columns = 1 + spec.count("r", spec.rindex("}") + 1 if "}" in spec else 1)
    body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    lines = [line for line in body.strip().splitlines() if line != r"\midrule"]
    rows = [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in lines]
    assert all(line.endswith(r"\\") for line in lines)
    assert {len(row) for row in rows} == {num_columns}
    for row in rows:
        for cell in row:
            assert not SPECIAL.search(cell), cell
    return [[cell.strip() for cell in row] for row in rows]


def compiles(text: str, folder: Path) -> bool:
    """Whether LaTeX compiles a document of two columns with the table, and nothing is too wide."""
    (folder / "paper.tex").write_text(DOCUMENT % text, encoding="utf-8")
    assert TEX is not None
    options = [] if "tectonic" in TEX else ["-interaction=nonstopmode", "-halt-on-error"]
    command = [TEX, *options, "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode == 0 and "Overfull" not in done.stdout + done.stderr


@given(st.text(alphabet=st.sampled_from("ab\\{}&%$#_~^<>…–±é 你"), max_size=20))
def test_escaped_text_prints_as_it_was(text: str) -> None:
    escaped = escape(text)
    back = escaped
    for sign, command in (
        ("~", r"\textasciitilde{}"), ("^", r"\textasciicircum{}"), ("<", r"\textless{}"),
        (">", r"\textgreater{}"), ("…", r"\dots{}"), ("±", r"$\pm$"), ("–", "--"),
    ):  # fmt: skip
        back = back.replace(command, sign)
    back = back.replace(r"\textbackslash{}", "\0")
    back = re.sub(r"\\([{}&%$#_])", r"\1", back).replace("\0", "\\")
    assert back == text


def test_scores_have_the_figures_of_the_table(runs: list[Path]) -> None:
    run = read_run(runs[0])
    scores = score_run(run, resamples=200)
    text = scores_latex(scores, run)
    rows = table_rows(text)
    assert [row[0] for row in rows[1:] if row[0]] == ["student", "prosodic teacher", "linguistic teacher"]
    ua = scores.models[0].scores["ua"]
    assert rows[1][1] == f"{100 * ua.value:.1f}"
    assert ua.low is not None
    assert ua.high is not None
    assert f"[{100 * ua.low:.1f}, {100 * ua.high:.1f}]" in rows[2][1]
    (caption,) = re.findall(r"\\caption\{(.*)\}", text)
    for fact in ("ravdess", "3 folds", "seed 0", "672 test utterances of 12 speakers", run.protocol.hash):
        assert fact in caption
    assert r"\label{tab:scores-plain-50}" in text
    assert "Bold" not in text, "one model of a run is not compared with another"


def test_costs_stand_beside_ua_in_a_table_of_two_columns(runs: list[Path]) -> None:
    run = read_run(runs[0])
    scores = score_run(run, resamples=200)
    known = ModelCost(parameters=1_500_000, latency_ms=12.3)
    text = scores_latex(replace(scores, cost=RunCost({"student": known})), run)
    rows = table_rows(text)
    assert rows[0][-2:] == ["parameters", "ms"], "columns that nothing is known of are left out"
    assert rows[1][-2:] == ["1.50 M", "12.3"]
    assert rows[2][-2:] == ["", ""], "the interval's row has no cost"
    assert rows[3][-2:] == ["--", "--"]
    assert r"\begin{table*}" in text
    assert "{table*}" not in scores_latex(scores, run)


def test_compared_systems_have_their_costs(runs: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs[:2]]
    RunCost({"student": ModelCost(macs=2_000_000_000)}, {"cpu": "x"}).write(copies[1])
    text = comparisons_latex(compare_runs(copies, resamples=200), [read_run(run) for run in copies])
    rows = table_rows(text)
    assert [row[-1] for row in rows] == ["MACs", "--", "2.00 G", ""]


def test_a_comparison_is_bold_where_the_best_differs_from_all(runs: list[Path]) -> None:
    opened = [read_run(run) for run in runs]
    comparisons = compare_runs(runs, resamples=500)
    rows = table_rows(comparisons_latex(comparisons, opened))
    assert [re.sub(r"\\(raggedright |allowbreak\{\})", "", row[0]) for row in rows[1:] if row[0]] == [
        r"plain\_50\%", "other", r"much-better\&longer-name-of-a-system",
    ]  # fmt: skip
    difference = comparisons[1].differences["ua"]
    assert rows[4][1] == rf"\textbf{{{format_percent(difference.run)}}}"
    assert rows[4][3] == f"${format_percent(difference.value, True)}$"
    assert "textbf" not in rows[1][1] + rows[2][1], "others are not bold"
    alike = comparisons_latex(compare_runs(runs[:2], resamples=500), opened[:2])
    assert "textbf" not in alike, "no significant difference, so nothing is bold"
    assert "Bold: the highest UA, only where" in alike, "the note says so"
    pairs = table_rows(comparisons_latex(compare_runs(runs, True, 500), opened))
    assert len([row for row in pairs[1:] if row[0]]) == 6, "with every pair, each row has the one above it"


@pytest.fixture(scope="module")
def opened(runs: list[Path]) -> list[Run]:
    return [read_run(run) for run in runs[:1]]


shares = st.floats(0, 1)
p_values = st.floats(0, 0.2)


@settings(deadline=None)
@given(first=shares, others=st.lists(st.tuples(shares, p_values), min_size=1, max_size=5))
def test_bold_is_the_best_with_significant_differences_only(
    opened: list[Run], first: float, others: list[tuple[float, float]]
) -> None:
    comparisons = [
        Comparison(
            "reference", f"run {place}", 9, 9,
            {name: Difference(first, ua, -0.1, 0.1, p, p) for name in ("ua", "wa")}, McNemar(0, 0, 1.0),
        )
        for place, (ua, p) in enumerate(others)
    ]  # fmt: skip
    text = comparisons_latex(comparisons, opened)
    bold = [row[0] for row in table_rows(text) if "textbf" in row[1]]
    best = max([first, *(ua for ua, _ in others)])
    assert len(bold) <= 1
    if bold == ["reference"]:
        assert first == best
        assert all(p < 0.05 for _, p in others)
    elif bold:
        ua, p = others[int(bold[0].removeprefix("run "))]
        assert (ua, p < 0.05) == (best, True)
    elif first < best and len([ua for ua, _ in others if ua == best]) == 1:
        assert next(p for ua, p in others if ua == best) >= 0.05


def ablation(folder: Path, accuracies: dict[str, float]) -> tuple[AblationTable, list[Run]]:
    corpus = invented_corpus(each=6)
    found = {
        cell: [
            read_run(invented_run(folder / cell / f"seed-{seed}", value, corpus=corpus, seed=seed))
            for seed in (0, 1)
        ]
        for cell, value in accuracies.items()
    }
    systems = [System(cell, "parts", cell, [run.table() for run in runs]) for cell, runs in found.items()]
    table = make_ablation_table([*systems, *teacher_systems(found["full"])], "full", resamples=500)
    return table, found["full"]


def test_an_ablation_has_its_cells_and_bold_only_what_is_significant(tmp_path: Path) -> None:
    table, full = ablation(tmp_path, {"full": 0.8, "no-distillation": 0.5, "linguistic_only": 0.45})
    text = ablation_latex(table, full)
    rows = table_rows(text)
    cells = [re.sub(r"\\(raggedright |allowbreak\{\})", "", row[0]) for row in rows[1:] if row[0]]
    assert cells == [escape(row.cell) for row in table.rows]
    assert r"\textbf{" in rows[1][1], "the full method is better than every other student"
    assert rows[1][1:].count("--") == 2
    assert "seeds 0, 1" in text
    assert format_percent(table.rows[1].difference, True) in text
    assert text.count(r"\midrule") == 2, "teachers stand apart"
    near = [replace(row, p_holm=0.2 if row.p_holm is not None else None) for row in table.rows]
    assert "textbf" not in ablation_latex(replace(table, rows=tuple(near)), full)


@pytest.fixture
def documents(runs: list[Path], tmp_path: Path) -> list[str]:
    table, full = ablation(tmp_path, {"full": 0.6, "distillation.weights.prosodic=0.25": 0.5})
    opened = [read_run(run) for run in runs]
    return [
        scores_latex(score_run(opened[0], resamples=100), opened[0]),
        comparisons_latex(compare_runs(runs, resamples=200), opened),
        comparisons_latex(compare_runs(runs, True, 200), opened),
        ablation_latex(table, full),
    ]


@pytest.mark.skipif(TEX is None, reason="neither tectonic nor pdflatex is installed")
def test_latex_compiles_every_table_and_none_is_wider_than_a_column(
    documents: list[str], tmp_path: Path
) -> None:
    for text in documents:
        assert compiles(text, tmp_path)


def test_the_commands_write_latex(emodistill: make.CommandLine, runs: list[Path], tmp_path: Path) -> None:
    result = emodistill("scores", runs[0], "--format", "latex")
    assert (result.code, table_rows(result.out)[0][0]) == (0, "Model")
    out = tmp_path / "tables" / "compare.tex"
    result = emodistill("compare", *runs, "--format", "latex", "-o", out, "--resamples", 200)
    assert (result.code, result.out) == (0, "")
    assert table_rows(out.read_text(encoding="utf-8"))[0][0] == "System"
    result = emodistill("scores", runs[0], "-o", tmp_path / "scores.tex")
    assert table_rows((tmp_path / "scores.tex").read_text(encoding="utf-8"))[0][0] == "Model"
    parent = emodistill("scores", runs[0].parent).err
    assert f"is not a run folder: it has no recipe.toml; it holds runs, such as '{runs[0].parent}" in parent
    result = emodistill("compare", *runs, "-o", tmp_path / "compare.md")
    assert (result.code, "bad suffix of --out '.md'" in result.err) == (2, True)
    result = emodistill("report", runs[0], "-o", tmp_path / "report.pdf")
    assert (result.code, "bad suffix of --out '.pdf'" in result.err) == (2, True)
    result = emodistill("scores", runs[0], "--format", "json", "-o", tmp_path / "scores.json")
    assert (result.code, result.out) == (0, "")
    assert (tmp_path / "scores.json").read_text(encoding="utf-8").startswith("{")
