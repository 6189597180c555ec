"""The hardware that runs a model: names, what this install has, and no silent use of the CPU."""

import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import factories as make
import onnxruntime
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from emodistill import Recognizer
from emodistill.audio.providers import PROVIDERS, check_provider, ensure_available, find_provider
from emodistill.errors import ConfigError, EmodistillError, ModelError
from emodistill.inference.exported_student import ExportedStudent

Call = make.CommandLine
CPU = "CPUExecutionProvider"
AVAILABLE = onnxruntime.get_available_providers()
ABSENT = [name for name in PROVIDERS if PROVIDERS[name].runtime_name not in AVAILABLE]
PRESENT = [name for name in PROVIDERS if PROVIDERS[name].runtime_name in AVAILABLE and name != "cpu"]


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    soundfile.write(path, make.speech(1.0), make.RATE)
    return path


class FakeSession:
    """An ONNX Runtime session that runs on the CPU, and claims to use `started`."""

    started: tuple[str, ...] = ()
    made_with: list[dict[str, Any]] = []  # noqa: RUF012 (each test sets its own list)

    def __init__(self, model: Any, options: Any, **given: Any) -> None:
        type(self).made_with.append(given)
        self._session = onnxruntime_session(model, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return [*self.started, CPU]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


onnxruntime_session = onnxruntime.InferenceSession


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """An install that has every provider."""
    everything = [*(provider.runtime_name for provider in PROVIDERS.values()), "XnnpackExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(FakeSession, "started", ())
    monkeypatch.setattr(FakeSession, "made_with", [])
    return FakeSession


def test_the_cpu_is_the_default_and_has_two_names() -> None:
    sound = make.speech(0.5)
    rows = [Recognizer(threads=1, provider=name).predict(sound, make.RATE) for name in ("cpu", CPU)]
    assert rows[0] == rows[1] == Recognizer(threads=1).predict(sound, make.RATE)


@pytest.mark.skipif(not PRESENT, reason="this install of ONNX Runtime has the CPU alone")
@pytest.mark.parametrize("name", PRESENT)
def test_other_hardware_gives_the_answers_of_the_cpu(name: str) -> None:
    cpu, other = Recognizer(threads=1), Recognizer(threads=1, provider=name)
    assert other.student.providers[0] == PROVIDERS[name].runtime_name
    for seed, length_s in enumerate((0.3, 1.0, 2.7, 25.0)):
        sound = make.speech(length_s, 120 + 30 * seed, seed)
        expected, found = cpu.predict(sound, make.RATE), other.predict(sound, make.RATE)
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-3)
        assert (found.emotion, found.reason) == (expected.emotion, expected.reason)


@given(st.text(max_size=20))
def test_a_name_is_known_or_the_error_lists_the_names(name: str) -> None:
    known = name in PROVIDERS or (name.endswith("ExecutionProvider") and name != "ExecutionProvider")
    if known:
        assert find_provider(name).runtime_name.endswith("ExecutionProvider")
        return
    with pytest.raises(ConfigError, match=r"expected one of .*'cpu', 'cuda', 'tensorrt'"):
        find_provider(name)


def test_short_names_and_own_names_are_the_same_providers() -> None:
    for provider in PROVIDERS.values():
        assert find_provider(provider.name) is find_provider(provider.runtime_name) is provider
    assert len({provider.runtime_name for provider in PROVIDERS.values()}) == len(PROVIDERS)
    with pytest.raises(ConfigError, match=r"bad provider 'cudda', .*did you mean 'cuda'"):
        find_provider("cudda")


@pytest.mark.parametrize("name", sorted(set(PROVIDERS) - {"cpu"}))
def test_a_missing_provider_names_what_is_there_and_the_package(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ensure_available(PROVIDERS[name], [CPU, "AzureExecutionProvider"])
    assert f"the provider '{name}' is not in this install of ONNX Runtime, which has cpu; " in str(
        caught.value
    )
    assert PROVIDERS[name].package in str(caught.value)
    ensure_available(PROVIDERS[name], [PROVIDERS[name].runtime_name, CPU])


def test_the_remedy_removes_every_package_of_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime": ["onnxruntime", "onnxruntime-openvino"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: installed)
    with pytest.raises(ConfigError, match="-y onnxruntime onnxruntime-gpu onnxruntime-openvino && pip"):
        ensure_available(PROVIDERS["cuda"], [CPU])


@pytest.mark.parametrize("name", ABSENT)
def test_the_recogniser_refuses_what_this_install_lacks(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the provider '{name}' is not in this install"):
        Recognizer(provider=name)
    with pytest.raises(ConfigError, match=f"the provider '{name}' is not in this install"):
        Recognizer("organisation/model-that-would-be-downloaded", provider=name)


def test_an_own_name_of_no_package_names_what_is_there() -> None:
    with pytest.raises(ConfigError, match=r"bad provider 'CPUExecutionProvider2'|bad provider 'CPUsExec"):
        check_provider("CPUsExecutionProvider")


def test_a_provider_that_does_not_start_is_an_error(hardware: type[FakeSession]) -> None:
    with pytest.raises(
        ConfigError, match="the provider 'cuda' did not start, and ONNX Runtime would use the CPU"
    ):
        Recognizer(provider="cuda")
    hardware.started = ("CUDAExecutionProvider",)
    with pytest.raises(ConfigError, match="the provider 'tensorrt' did not start"):
        Recognizer(provider="tensorrt")
    assert all(made["enable_fallback"] == 0 for made in hardware.made_with)


def test_a_provider_that_fails_is_named(hardware: type[FakeSession], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA failure 35: driver too old")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(ModelError, match="with the provider 'cuda': CUDA failure 35: driver too old"):
        Recognizer(provider="cuda")


@pytest.mark.parametrize(
    ("name", "providers", "options"),
    [
        ("cpu", [CPU], [{}]),
        ("cuda", ["CUDAExecutionProvider"], [{}]),
        ("tensorrt", ["TensorrtExecutionProvider", "CUDAExecutionProvider"], [{}, {}]),
        ("openvino", ["OpenVINOExecutionProvider"], [{"num_of_threads": "3"}]),
        ("XnnpackExecutionProvider", ["XnnpackExecutionProvider"], [{}]),
    ],
)
def test_the_session_gets_the_providers_and_the_threads(
    hardware: type[FakeSession], name: str, providers: list[str], options: list[Any]
) -> None:
    hardware.started = tuple(providers)
    recognizer = Recognizer(threads=3, provider=name)
    recognizer.predict_statistics(recognizer.statistics(make.speech(1.0), make.RATE))
    own = [made for made in hardware.made_with if made["providers"] == providers]
    assert len(own) >= 2, "model.onnx and head.onnx"
    assert all(made["provider_options"] == options for made in own)
    assert recognizer.student.providers == [*providers, CPU]


def test_a_session_that_runs_alone_has_one_run_at_a_time(
    hardware: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[int] = []
    most: list[int] = []

    def run(self: FakeSession, *given: Any) -> Any:
        running.append(1)
        most.append(len(running))
        threading.Event().wait(0.01)
        running.pop()
        return self._session.run(*given)

    monkeypatch.setattr(FakeSession, "run", run, raising=False)
    for name, expected in (("directml", {1}), ("cuda", {1, 2})):
        most.clear()
        hardware.started = (PROVIDERS[name].runtime_name,)
        student = ExportedStudent("bundled", provider=name)
        sound = make.speech(0.5)
        threads = [threading.Thread(target=student.run, args=(sound,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert expected <= set(most)
        assert name == "cuda" or set(most) == {1}


VERBS: dict[str, list[str]] = {
    "predict": ["{wav}"],
    "timeline": ["{wav}"],
    "enrol": ["{wav}", "-o", "{folder}/x.json"],
    "listen": ["-"],
    "serve": [],
    "embed": ["{wav}", "-o", "{folder}/x.npz"],
    "mcp": ["--folder", "{folder}"],
    "evaluate": ["bundled", "{folder}/no.csv"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_runs_a_model_checks_the_provider_first(
    emodistill: Call, wav: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [text.format(wav=wav, folder=wav.parent) for text in VERBS[verb]]
    result = emodistill(verb, *arguments, "--provider", ABSENT[0])
    assert result.code == 2
    assert f"the provider '{ABSENT[0]}' is not in this install" in result.err
    monkeypatch.setenv("EMODISTILL_PROVIDER", "gpu")
    result = emodistill(verb, *arguments)
    assert (result.code, "bad provider 'gpu'" in result.err) == (2, True)
    assert sorted(path.name for path in wav.parent.iterdir()) == ["a.wav"]


def test_the_file_of_defaults_names_the_provider(
    emodistill: Call, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(wav.parent)
    Path("emodistill.toml").write_text(f'provider = "{ABSENT[0]}"\n')
    assert f"the provider '{ABSENT[0]}' is not in this install" in emodistill("predict", "a.wav").err
    assert emodistill("predict", "a.wav", "--provider", "cpu").code == 0


def test_verbose_names_the_provider(emodistill: Call, wav: Path) -> None:
    assert f"; providers: {CPU}; " in emodistill("predict", wav, "--provider", CPU, "-v").err


def test_a_server_refuses_the_settings_of_missing_hardware() -> None:
    from emodistill.serving.settings import Settings

    assert Settings().provider == "cpu"
    with pytest.raises(ConfigError, match="is not in this install"):
        Settings(provider=ABSENT[0])


def test_the_server_loads_its_models_with_the_provider(hardware: type[FakeSession]) -> None:
    from emodistill.serving.service import Service
    from emodistill.serving.settings import Settings

    hardware.started = ("CUDAExecutionProvider",)
    service = Service(Settings(provider="cuda", threads=1))
    assert {model.student.provider for model in service.models.values()} == {"cuda"}


def test_an_evaluation_runs_exported_models_alone_on_other_hardware(
    tmp_path: Path, hardware: type[FakeSession]
) -> None:
    from emodistill.training.evaluated_models import open_model

    hardware.started = ("CUDAExecutionProvider",)
    (tmp_path / "model.json").touch()
    assert open_model("bundled", "cuda")[0].recognizer.student.provider == "cuda"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="is for exported models, which ONNX Runtime runs, but torch runs"):
        open_model(str(tmp_path), "cuda")


def test_a_typo_does_not_load_onnx_runtime() -> None:
    code = (
        "import sys; from emodistill.audio.providers import check_provider\n"
        "try: check_provider('gpu')\n"
        "except Exception as error: print(type(error).__name__, 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ConfigError", "False"]
    assert issubclass(ConfigError, EmodistillError)
