"""The npm package `emodistill`: its files, its types, and what it returns in a fresh Vite project."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import factories as make
import pytest
import soundfile
import soxr
from factories_page import CHROMIUM, as_base64, open_browser, serve_folder, wait_until, write_conversation
from factories_scripts import load_script
from factories_serving import SPEECH
from factories_voices import model_without_voices
from typer.testing import CliRunner

from emodistill import Recognizer
from emodistill.audio.speech_activity import SPEECH_FRAME_SAMPLES
from emodistill.audio.waveform import load
from emodistill.cli import app
from emodistill.errors import ConfigError
from emodistill.inference.timelines import timeline
from emodistill.serving.static_page import export_web, export_web_model
from emodistill.version import __version__

NPM = shutil.which("npm")
VITE, TYPESCRIPT = "vite@8.4.0", "typescript@7.0.2"
FRAME_S = SPEECH_FRAME_SAMPLES / make.RATE
FILES = {
    "LICENSE", "README.md", "decode.js", "index.d.ts", "index.js", "microphone.js", "network.js",
    "package.json", "recognizer.js", "recorder.js", "runtime.js", "segmentation.js", "settings.js",
    "speech_activity.js", "timelines.js", "voices.js",
}  # fmt: skip
npm_package = load_script("npm_package")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
needs_npm = pytest.mark.skipif(NPM is None, reason="npm is not installed")
CALL = Path(str(files("emodistill"))) / "demo" / "call.ogg"

# Makes `audio`, an AudioBuffer of the channels in `data` at `rate`.
BUFFER = """
  const channels = data.map((text) =>
    new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer));
  const format = { length: channels[0].length, numberOfChannels: channels.length, sampleRate: rate };
  const audio = new AudioBuffer(format);
  channels.forEach((samples, at) => audio.copyToChannel(samples, at));
"""
LISTEN = """async () => {
  const microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
  const events = [];
  for await (const event of recognizer.listen(microphone)) {
    events.push(event);
    const updates = events.filter(({ event }) => event === 'update');
    if (updates.length === 4) microphone.getTracks().forEach((track) => track.stop());
  }
  return events;
}"""


def run_npm(*arguments: object, cwd: Path) -> str:
    """Run npm, and return what it prints. Fails the test if npm fails."""
    assert NPM is not None
    command = [NPM, "--no-audit", "--no-fund", "--no-update-notifier", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the npm package."""
    folder = tmp_path_factory.mktemp("npm") / "emodistill"
    npm_package.write(folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, whose microphone plays two utterances again and again."""
    path = tmp_path_factory.mktemp("conversation") / "two voices.wav"
    with open_browser(write_conversation(path, SPEECH[:2])) as opened:
        yield opened


# --- the files ------------------------------------------------------------------------------------------


@needs_npm
def test_npm_packs_exactly_the_files_of_the_package(package: Path) -> None:
    (packed,) = json.loads(run_npm("pack", "--dry-run", "--json", "--offline", cwd=package))
    assert (packed["name"], packed["version"]) == ("emodistill", __version__)
    assert {file["path"] for file in packed["files"]} == FILES
    assert packed["size"] < 100_000


def test_the_package_is_complete_and_has_one_partner(package: Path) -> None:
    assert {path.name for path in package.iterdir()} == FILES
    info = json.loads((package / "package.json").read_text(encoding="utf-8"))
    assert (info["version"], info["license"], info["private"]) == (__version__, "Apache-2.0", False)
    partners = info["peerDependencies"]
    version, *_ = load_script("vendor").PACKAGES["onnxruntime-web"]
    assert partners == {"onnxruntime-web": f"^{version}"}
    assert "dependencies" not in info
    for path in package.glob("*.js"):
        for name in re.findall(r"""(?:from|URL\() ?['"]([^']+)['"]""", path.read_text(encoding="utf-8")):
            if name.startswith("./"):
                assert (package / name).is_file(), f"{path.name} needs {name}"
            else:
                assert name in ("onnxruntime-web/wasm", "model.json"), f"{path.name} needs {name}"


def test_the_package_and_the_page_have_the_same_scripts(package: Path, tmp_path: Path) -> None:
    export_web("bundled", tmp_path)
    shared = {path.name for path in package.glob("*.js")} - {"runtime.js"}
    assert len(shared) == 11
    for name in shared:
        assert (package / name).read_bytes() == (tmp_path / "page" / name).read_bytes()


def test_the_package_replaces_itself_and_no_other_files(package: Path, tmp_path: Path) -> None:
    npm_package.write(package)
    assert {path.name for path in package.iterdir()} == FILES
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"holds other files: mine\.txt"):
        npm_package.write(tmp_path)


def test_a_model_for_the_package_is_that_of_the_page(tmp_path: Path) -> None:
    page, model = tmp_path / "page", tmp_path / "model"
    size = export_web("bundled", page)
    done = CliRunner().invoke(app, ["export", "--web-model", str(model)])
    assert done.exit_code == 0, done.output
    names = {path.name for path in model.iterdir()}
    assert names == {path.name for path in page.iterdir()} - {"index.html", "page"}
    assert {"model.json", "model.onnx", "vad.onnx", "head.onnx", "WHISPER-LICENSE.txt"} <= names
    assert all((model / name).read_bytes() == (page / name).read_bytes() for name in names)
    assert export_web_model("bundled", model) < size
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds other files"):
        export_web_model("bundled", tmp_path / "mine")


# --- types ----------------------------------------------------------------------------------------------


def interfaces(package: Path) -> dict[str, dict[str, bool]]:
    """For each interface of `index.d.ts`, its members, and whether each must be there."""
    text = re.sub(r"/\*\*.*?\*/", "", (package / "index.d.ts").read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict[str, dict[str, bool]] = {}
    pattern = r"export interface (\w+)(?: extends (\w+))? \{\n(.*?)\n\}"
    for name, base, body in re.findall(pattern, text, re.DOTALL):
        members = re.findall(r"^  (\w+)(\??)[:(]", body, re.MULTILINE)
        found[name] = found.get(base, {}) | {member: not optional for member, optional in members}
    return found


def check_members(row: dict[str, Any], members: dict[str, bool]) -> None:
    """Fail if a row has a member that its interface lacks, or lacks one that must be there."""
    assert row.keys() <= members.keys()
    assert {name for name, required in members.items() if required} <= row.keys()


def test_the_types_export_what_the_package_exports(package: Path) -> None:
    types = (package / "index.d.ts").read_text(encoding="utf-8")
    script = (package / "index.js").read_text(encoding="utf-8")
    exported = {
        *re.findall(r"^export class (\w+)", script, re.MULTILINE),
        *re.findall(r"^export \{ (\w+) \}", script, re.MULTILINE),
    }
    declared = set(re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE))
    assert exported == declared == {"Recognizer", "decodeAudio"}
    recognizer = types.partition("export class Recognizer")[2]
    body = script.partition("export class Recognizer")[2].partition("\n}")[0]
    declared = set(re.findall(r"^  (?:static |readonly )?(\w+)[(:]", recognizer, re.MULTILINE))
    assert declared > {"load", "card", "predict", "timeline", "listen", "stream"}
    for name in declared:
        assert re.search(rf"^  (?:static |async |get |\*)*{name}\(", body, re.MULTILINE), name


# --- in the browser, without npm ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model without voices."""
    return model_without_voices(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def site(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address and the folder of an exported page, which holds the scripts of the package."""
    folder = tmp_path_factory.mktemp("site")
    export_web(plain, folder)
    with serve_folder(folder) as url:
        yield url, folder


@needs_chromium
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "model.json",
            None,
            r"cannot load http://\S+/broken/model\.json: the server answers 404.*--web-model",
        ),
        ("model.json", b"<!doctype html>", r"model\.json is not JSON, it begins with \"<!doctype html>\""),
        ("model.json", b'{"name": "x"}', r"model\.json is not a model of format 1, its format is undefined"),
        ("model.json", b"null", r"model\.json is not a model of format 1"),
        ("model.onnx", None, r"cannot load http://\S+/broken/model\.onnx: the server answers 404"),
        ("model.onnx", b"another", r"model\.onnx is not the file that model\.json describes"),
        ("vad.onnx", b"no model", r"vad\.onnx is not an ONNX model that ONNX Runtime Web reads"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    browser: Any, site: tuple[str, Path], name: str, content: bytes | None, message: str
) -> None:
    url, folder = site
    broken = folder / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    broken.mkdir()
    for part in ("model.json", "model.onnx", "vad.onnx"):
        shutil.copyfile(folder / part, broken / part)
    (broken / name).unlink()
    if content is not None:
        (broken / name).write_bytes(content)
    page = browser.new_page()
    page.goto(f"{url}/vad.json")
    said = page.evaluate(
        """async () => {
          const { Recognizer } = await import('/page/index.js');
          return Recognizer.load('broken').then(() => 'loaded', (error) => error.message);
        }"""
    )
    page.close()
    assert re.search(message, said), said


@needs_chromium
def test_bad_input_of_the_package_is_refused(browser: Any, site: tuple[str, Path]) -> None:
    calls = {
        "recognizer.predict(new Float32Array(0))": "the audio has no samples",
        "recognizer.timeline([])": "expected an AudioBuffer, or samples at 16 kHz.*got Array",
        "recognizer.predict(new Blob(['x']))": r"got Blob\. Decode a file with decodeAudio",
        "recognizer.predict(undefined)": "got undefined",
        "recognizer.predict(Float32Array.of(0, NaN))": "samples that are no finite numbers",
        "recognizer.timeline([sound, sound.subarray(1)])": "channels of the same length, got 16000, 15999",
        "recognizer.predict(sound, { channel: 2 })": "no channel 2: expected 'mix', 'split', or 0 to 0",
        "recognizer.predict(sound, { channel: 'left' })": 'bad channel "left", expected',
        "recognizer.predict(sound, { minConfidence: 60 })": "bad minConfidence 60, expected 0 to 1",
        "recognizer.timeline(sound, { names: ['anna'] })": "no names without channels: 'split'",
        "recognizer.timeline([sound, sound], { channels: 'split', names: ['anna'] })": "has 2 channels, but",
        "recognizer.timeline(sound, { adapt: 'auto' })": 'bad adapt "auto", expected one of none, running',
        "recognizer.timeline(sound, { adapt: 'recording' })": "needs a model with voices",
        "recognizer.timeline(sound, { signal: AbortSignal.abort(new Error('stopped')) })": "^stopped$",
        "(async () => recognizer.stream(16000.5))()": "bad rate 16000.5, expected 3000 to 384000 Hz",
        "recognizer.stream(16000).push([0, 1]).next()": "expected samples of one channel: a Float32Array",
        "recognizer.listen(new MediaStream()).next()": "the MediaStream has no audio track",
        "decodeAudio(new Blob(['no sound']))": "this browser cannot decode it as audio",
    }
    url, _ = site
    page = browser.new_page()
    page.goto(f"{url}/vad.json")
    page.evaluate(
        """async () => {
          const { decodeAudio, Recognizer } = await import('/page/index.js');
          const sound = new Float32Array(16000).fill(0.1);
          Object.assign(globalThis, { decodeAudio, sound, recognizer: await Recognizer.load('/') });
        }"""
    )
    for call, message in calls.items():
        said = page.evaluate(f"() => {call}.then(() => 'done', (error) => error.message)")
        assert re.search(message, said), f"{call}: {said}"
    assert page.evaluate("recognizer.predict(sound, { minConfidence: 1 })")["reason"] == "silence"
    page.close()


@needs_chromium
def test_a_worker_recognises_samples(browser: Any, site: tuple[str, Path], plain: Path) -> None:
    url, folder = site
    script = """
      import { Recognizer } from '/page/index.js';
      const recognizer = await Recognizer.load('.');
      onmessage = async ({ data }) => postMessage(await recognizer.predict(data));
      postMessage('ready');
    """
    (folder / "worker.js").write_text(script, encoding="utf-8")
    page = browser.new_page()
    page.goto(f"{url}/vad.json")
    row = page.evaluate(
        """(data) => new Promise((resolve, reject) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const worker = new Worker('/worker.js', { type: 'module' });
          worker.onerror = reject;
          worker.onmessage = ({ data }) =>
            data === 'ready' ? worker.postMessage(new Float32Array(bytes.buffer)) : resolve(data);
        })""",
        as_base64(load(SPEECH[0])),
    )
    page.close()
    own = Recognizer(plain, threads=1).predict(load(SPEECH[0]), rate_hz=make.RATE)
    assert row["emotion"] == own.emotion
    assert row["probabilities"] == pytest.approx(own.probabilities, abs=1e-3)


# --- in a fresh Vite project ----------------------------------------------------------------------------

# Options and results that the types must allow, and some that they must refuse.
TYPED = """
import { decodeAudio, Recognizer, type Segment, type StreamEvent } from 'emodistill';

export const run = async (file: File, media: MediaStream): Promise<void> => {
  const recognizer: Recognizer = await Recognizer.load(new URL('https://example.org/model/'));
  const audio: AudioBuffer = await decodeAudio(file);
  const { emotion, reason } = await recognizer.predict(audio, { channel: 1, minConfidence: 0.5 });
  if (emotion === null) console.log(reason === 'no_speech');
  const options = { channels: 'split', names: ['anna', 'ben'], adapt: 'recording' } as const;
  const timeline = await recognizer.timeline([new Float32Array(9)], options);
  const first: Segment | undefined = timeline.segments[0];
  const seconds: number | undefined = timeline.speakers?.['anna']?.['happy'];
  for await (const event of recognizer.listen(media, { adapt: 'running' })) {
    if (event.event === 'segment') console.log(event.start_s + event.confidence, first, seconds);
    if (event.event === 'speech_started') console.log(event.time_s);
    // @ts-expect-error: an update has no confidence
    if (event.event === 'update') console.log(event.confidence);
  }
  const events: StreamEvent[] = [];
  const stream = recognizer.stream(16000);
  for await (const event of stream.push(new Float32Array(160))) events.push(event);
  for await (const event of stream.finish()) events.push(event);
  // @ts-expect-error: only `load` makes a recogniser
  new Recognizer();
  // @ts-expect-error: a file must be decoded first
  await recognizer.predict(file);
  // @ts-expect-error: no such way to compare with a voice
  await recognizer.timeline(audio, { adapt: 'auto' });
};
"""
TSC_OPTIONS = (
    "--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler",
    "--lib", "es2022,dom,dom.iterable,dom.asynciterable",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh project with the packed package, Vite and TypeScript. Skips without the package index."""
    if NPM is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("project")
    command = [NPM, "view", VITE, "version", "--fetch-retries=0", "--fetch-timeout=20000"]
    if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("npm reaches no package index")
    (folder / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
    (packed,) = json.loads(run_npm("pack", "--json", "--pack-destination", folder, cwd=package))
    version, *_ = load_script("vendor").PACKAGES["onnxruntime-web"]
    requirements = [f"./{packed['filename']}", f"onnxruntime-web@{version}", VITE, TYPESCRIPT]
    run_npm("install", "--ignore-scripts", "--prefer-offline", *requirements, cwd=folder)
    return folder


@pytest.mark.install
def test_the_types_fit_a_program(project: Path) -> None:
    (project / "program.ts").write_text(TYPED, encoding="utf-8")
    run_npm("exec", "--offline", "--", "tsc", *TSC_OPTIONS, "program.ts", cwd=project)


@pytest.fixture(scope="module")
def built(project: Path) -> Iterator[str]:
    """The address of a plain file server with the project of README, built by Vite."""
    readme = (project / "node_modules" / "emodistill" / "README.md").read_text(encoding="utf-8")
    for name in ("index.html", "main.js"):
        (snippet,) = re.findall(rf"`{name}`:\n\n```\w+\n(.*?)```", readme, re.DOTALL)
        (project / name).write_text(snippet, encoding="utf-8")
    with (project / "main.js").open("a", encoding="utf-8") as file:
        file.write("globalThis.recognizer = recognizer;\n")
    export_web_model("bundled", project / "public" / "model")
    run_npm("exec", "--offline", "--", "vite", "build", "--logLevel", "warn", cwd=project)
    with serve_folder(project / "dist") as url:
        yield url


@pytest.fixture(scope="module")
def page(browser: Any, built: str) -> Iterator[Any]:
    """The built project in Chromium. An error in it fails the test."""
    context = browser.new_context(permissions=["microphone"])
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto(built)
    wait_until(opened, "globalThis.recognizer !== undefined")
    yield opened
    context.close()
    assert problems == []


@pytest.mark.install
@needs_chromium
def test_answers_of_the_package_equal_pythons(page: Any, package: Path) -> None:
    """For the demo call at its own rate, probabilities are within 1e-3, and times within a frame."""
    recognizer = Recognizer(threads=1)
    members = interfaces(package)
    samples, rate_hz = soundfile.read(CALL, dtype="float32")
    assert rate_hz == make.RATE
    data = [[as_base64(channel) for channel in samples.T], rate_hz]
    rows = page.evaluate(
        f"""async ([data, rate]) => {{ {BUFFER}
          const predictions = [];
          for (const channel of ['mix', 0, 1]) {{
            predictions.push(await recognizer.predict(audio, {{ channel }}));
          }}
          const names = ['agent', 'customer'];
          return [predictions, [
            await recognizer.timeline(audio),
            await recognizer.timeline(audio, {{ channels: 1 }}),
            await recognizer.timeline(audio, {{ channels: 'split', names, minConfidence: 0.27 }}),
            await recognizer.timeline(audio, {{ channels: 'split', adapt: 'recording' }}),
          ], recognizer.card];
        }}""",
        data,
    )
    predictions, timelines, card = rows
    check_members(card, members["Card"])
    for channel, row in zip((None, 0, 1), predictions, strict=True):
        own = recognizer.predict(samples, rate_hz=rate_hz, channel=channel)
        check_members(row, members["Prediction"])
        assert (row["emotion"], row["reason"]) == (own.emotion, own.reason)
        assert row["probabilities"] == pytest.approx(own.probabilities, abs=1e-3)
    confident = recognizer.with_options(min_confidence=0.27)
    expected = (
        timeline(samples, recognizer, rate_hz),
        timeline(samples, recognizer, rate_hz, channels=1),
        timeline(samples, confident, rate_hz, channels="split", names=["agent", "customer"]),
        timeline(samples, recognizer, rate_hz, channels="split", adapt="recording"),
    )
    found = set()
    for row, own in zip(timelines, expected, strict=True):
        check_members(row, members["Timeline"])
        assert len(own.segments) > 1
        assert [part["emotion"] for part in row["segments"]] == [part.emotion for part in own.segments]
        for mine, theirs in zip(row["segments"], own.segments, strict=True):
            check_members(mine, members["Segment"])
            assert mine["start_s"] == pytest.approx(theirs.start_s, abs=FRAME_S)
            assert mine["end_s"] == pytest.approx(theirs.end_s, abs=FRAME_S)
            assert mine["probabilities"] == pytest.approx(theirs.probabilities, abs=1e-3)
            assert (mine.get("speaker"), mine.get("channel")) == (theirs.speaker, theirs.channel)
            assert mine.get("voice_utterances") == theirs.voice_utterances
            found.add(mine["emotion"])
        assert row["summary"] == pytest.approx(own.summary, abs=FRAME_S * (1 + len(own.segments)))
    assert None in found
    assert len(found) > 2


@pytest.mark.install
@needs_chromium
@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_the_package_takes_audio_of_any_rate(page: Any, rate_hz: int) -> None:
    recognizer = Recognizer(threads=1)
    spoken = load(SPEECH[0])
    samples = soxr.resample(spoken, make.RATE, rate_hz, quality="VHQ").clip(-1, 1)
    row = page.evaluate(
        f"async ([data, rate]) => {{ {BUFFER} return recognizer.predict(audio); }}",
        [[as_base64(samples)], rate_hz],
    )
    own = recognizer.predict(samples, rate_hz=rate_hz)
    assert row["emotion"] == own.emotion
    assert row["probabilities"] == pytest.approx(own.probabilities, abs=0.05)  # another filter resamples


@pytest.mark.install
@needs_chromium
def test_a_microphone_gives_events(page: Any, package: Path) -> None:
    events = page.evaluate(LISTEN)
    members = interfaces(package)
    kinds = {
        "speech_started": "SpeechStarted", "speech_ended": "SpeechEnded", "update": "WindowUpdate",
        "segment": "SegmentEvent",
    }  # fmt: skip
    assert {event["event"] for event in events} == kinds.keys()
    for event in events:
        check_members(event, members[kinds[event["event"]]])
    emotions = page.evaluate("recognizer.emotions")
    assert all(event["emotion"] in emotions for event in events if event["event"] == "segment")


@pytest.mark.install
@needs_chromium
def test_the_program_of_the_readme_works(page: Any, tmp_path: Path) -> None:
    shown = "document.querySelector('pre').textContent"
    soundfile.write(tmp_path / "call.wav", *soundfile.read(CALL))
    page.set_input_files("input", tmp_path / "call.wav")
    wait_until(page, rf"/, channel 1: \w+\n/.test({shown})")
    page.click("button")
    page.wait_for_timeout(4000)
    page.click("button")
    wait_until(page, f"{shown}.endsWith('end\\n')")
    text = page.evaluate(shown)
    assert text.startswith("ready: ")
    assert re.search(r"^\w+, confidence 0\.\d\d$", text, re.MULTILINE)
    assert re.search(r"^[\d.]+ to [\d.]+ s: \w+\nend$", text, re.MULTILINE)
