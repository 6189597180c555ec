"""Defaults of options in emodistill.toml and pyproject.toml, and --verbose."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories as make
import pytest
import soundfile

from emodistill import Recognizer, cli
from emodistill.cli.defaults import VERBS, read_defaults
from emodistill.errors import ConfigError

Call = make.CommandLine
FUNCTIONS: dict[str, Callable[..., Any]] = {
    info.callback.__name__: info.callback for info in cli.app.registered_commands if info.callback
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one recording."""
    soundfile.write(tmp_path / "a.wav", make.speech(1.0, 120, seed=1), make.RATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMODISTILL_MODEL", raising=False)
    return tmp_path


def emotions_of(call: Call, *arguments: str) -> list[str]:
    result = call("predict", "a.wav", "-f", "json", *arguments)
    assert result.code == 0, result.err
    return list(json.loads(result.out)[0]["probabilities"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("emodistill.toml", 'emotions = "angry,sad"\n'),
        ("emodistill.toml", '[predict]\nemotions = "angry,sad"\n[timeline]\nemotions = "happy"\n'),
        ("emodistill.toml", 'emotions = "happy"\n[predict]\nemotions = "angry,sad"\n'),
        ("pyproject.toml", '[project]\nname = "x"\n[tool.emodistill]\nemotions = "angry,sad"\n'),
        ("pyproject.toml", '[tool.emodistill.predict]\nemotions = "angry,sad"\n'),
    ],
)
def test_a_file_gives_defaults_and_the_command_line_wins(
    emodistill: Call, here: Path, name: str, text: str
) -> None:
    (here / name).write_text(text)
    assert emotions_of(emodistill) == ["angry", "sad"]
    assert emotions_of(emodistill, "--emotions", "sad,happy") == ["happy", "sad"]
    assert "angry,sad" in emodistill("predict", "--help").out


def test_emodistill_toml_comes_before_pyproject(emodistill: Call, here: Path) -> None:
    (here / "pyproject.toml").write_text('[tool.emodistill]\nemotions = "happy,sad"\n')
    (here / "emodistill.toml").write_text("[timeline]\nhop = 0.5\n")
    assert len(emotions_of(emodistill)) == 7
    (here / "emodistill.toml").unlink()
    assert emotions_of(emodistill) == ["happy", "sad"]
    (here / "pyproject.toml").write_text("[tool.other]\nbroken = \n")
    assert len(emotions_of(emodistill)) == 7, "a pyproject.toml of others is not read"


def test_environment_variables_win(emodistill: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "emodistill.toml").write_text('model = "nowhere"\n')
    result = emodistill("predict", "a.wav")
    assert result.code == 2
    assert "nowhere" in result.err
    monkeypatch.setenv("EMODISTILL_MODEL", "bundled")
    assert emodistill("predict", "a.wav").code == 0


def test_relative_paths_are_relative_to_the_file(emodistill: Call, here: Path) -> None:
    (here / "sub").mkdir()
    (here / "emodistill.toml").write_text(
        '[enrol]\noutput = "sub/anna.json"\n[predict]\nvoice = "sub/anna.json"\n'
    )
    assert emodistill("enrol", "a.wav").code == 0
    assert (here / "sub/anna.json").is_file()
    result = emodistill("predict", "a.wav", "-f", "json")
    assert json.loads(result.out)[0]["voice_utterances"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 1\n", "bad key 'modle', expected one of ['predict', 'timeline', "),
        ("modle = 1\n", "(did you mean 'model'?)"),
        ("[predict]\nplot = 'x.png'\n", "bad key of [predict] 'plot', expected one of ['adapt', "),
        ("[serve]\nportt = 1\n", "bad key of [serve] 'portt', expected one of ["),
        ("[predikt]\njobs = 1\n", "bad key 'predikt'"),
        ("[predict]\njobs = 'two'\n", "bad predict.jobs 'two', expected a whole number"),
        ("jobs = 0\n", "bad jobs 0, expected a whole number, at least 1"),
        ("[predict]\njobs = true\n", "bad predict.jobs True, expected a whole number"),
        (
            "[predict]\ncoverage = 2.5\n",
            "bad predict.coverage 2.5, expected a number, at least 0 and at most 1",
        ),
        ("[predict]\nteachers = 'yes'\n", "bad predict.teachers 'yes', expected true or false"),
        ("[predict]\nadapt = 'folders'\n", "bad predict.adapt 'folders', expected one of ['none', "),
        ("[predict]\nmodel = ['a']\n", "bad predict.model ['a'], expected a text"),
        ("predict = 1\n", "bad predict, expected a table, [predict]"),
        ("[model]\nx = 1\n", "bad model, expected a value"),
        ("predict\n", "is no TOML"),
    ],
)
def test_a_bad_key_or_value_names_the_file_and_what_is_known(
    emodistill: Call, here: Path, text: str, message: str
) -> None:
    (here / "emodistill.toml").write_text(text)
    result = emodistill("predict", "a.wav")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: emodistill.toml: ")
    assert message in result.err
    assert emodistill("models").code == 0, "other verbs do not read it"


def test_every_verb_takes_its_options_from_the_file(here: Path) -> None:
    text = """
    model = "large"
    min_confidence = 0.5
    [serve]
    model = ["bundled", "large"]
    port = 9000
    cors = "https://app.example"
    page = false
    [listen]
    rate = 8000
    [predict]
    from = "list.csv"
    format = "csv"
    adapt = "folder"
    [timeline]
    smooth = 2
    channels = "split"
    """
    (here / "emodistill.toml").write_text(text)
    values = {}
    for verb in VERBS:
        defaults = read_defaults(verb, FUNCTIONS)
        assert defaults is not None
        assert defaults.source == "emodistill.toml"
        values[verb] = dict(defaults.values)
    assert values == {
        "predict": {
            "model": "large", "min_confidence": 0.5, "listed": "list.csv", "format": "csv", "adapt": "folder",
        },
        "timeline": {"model": "large", "min_confidence": 0.5, "smooth": 2, "channels": "split"},
        "listen": {"model": "large", "min_confidence": 0.5, "rate": 8000},
        "enrol": {"model": "large"},
        "embed": {"model": "large"},
        "serve": {
            "model": ["bundled", "large"], "port": 9000, "cors": ["https://app.example"], "page": False,
        },
    }  # fmt: skip


def test_a_value_at_the_top_holds_for_the_verbs_that_can_have_it(emodistill: Call, here: Path) -> None:
    (here / "emodistill.toml").write_text('channels = "split"\nadapt = "recording"\nsmooth = 2\n')
    values = {verb: read_defaults(verb, FUNCTIONS) for verb in VERBS}
    assert {verb: dict(found.values) for verb, found in values.items() if found is not None} == {
        "predict": {"channels": "split"},
        "timeline": {"channels": "split", "adapt": "recording", "smooth": 2},
        "listen": {"smooth": 2},
        "enrol": {},
        "embed": {"channels": "split"},
        "serve": {},
    }
    for verb in (["predict", "a.wav"], ["timeline", "a.wav"], ["enrol", "a.wav", "-o", "a.json"]):
        assert emodistill(*verb).code == 0
    (here / "emodistill.toml").write_text("channels = 1\n")
    assert all("channels" in read_defaults(verb, FUNCTIONS).values for verb in ("predict", "enrol"))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('channels = "left"\n', "bad channels 'left', expected mix|"),
        ('adapt = "folders"\n', "bad adapt 'folders', expected one of ["),
        ("smooth = 'much'\n", "bad smooth 'much', expected a number"),
        ('[enrol]\nchannels = "split"\n', "bad enrol.channels 'split', expected mix|N"),
    ],
)
def test_a_value_that_no_verb_can_have_is_an_error_of_every_verb(
    emodistill: Call, here: Path, text: str, message: str
) -> None:
    (here / "emodistill.toml").write_text(text)
    verbs = (["enrol", "a.wav", "-o", "x.json"], ["predict", "a.wav"], ["timeline", "a.wav"])
    for verb in verbs[:1] if text.startswith("[") else verbs:
        result = emodistill(*verb)
        assert result.code == 2
        assert message in result.err


def test_no_file_gives_no_defaults(here: Path) -> None:
    assert read_defaults("predict", FUNCTIONS) is None
    (here / "emodistill.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"emodistill\.toml: is no TOML"):
        read_defaults("predict", FUNCTIONS)


@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_verbose_describes_the_model_and_each_file(
    emodistill: Call, here: Path, bundled: Recognizer, verb: str
) -> None:
    (here / "pyproject.toml").write_text("[tool.emodistill]\njobs = 2\n")
    (here / "b.wav").write_text("no audio")
    quiet = emodistill(verb, "a.wav", "b.wav", "-f", "json")
    result = emodistill(verb, "a.wav", "b.wav", "-f", "json", "-v")
    assert result.out == quiet.out
    lines = result.err.splitlines()
    assert lines[0] == "defaults: pyproject.toml, [tool.emodistill]"
    assert lines[1].startswith(f"model {bundled.card.name} in {bundled.folder}; emotions: angry, happy, ")
    assert lines[1].endswith("; providers: CPUExecutionProvider; threads: 1")
    logged = sorted(lines[2:4])
    assert re.fullmatch(r"a\.wav: 16000 Hz, 1 channel, 1\.0 s; took \d+\.\d\d s", logged[0])
    assert re.fullmatch(r"b\.wav: cannot be read; took \d+\.\d\d s", logged[1])
    assert "took" not in emodistill(verb, "a.wav", "-f", "json").err
