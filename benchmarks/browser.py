"""Measures how often the static page gives the same emotion as Python, on the same files.

    python benchmarks/browser.py CORPORA [--model DIR] [--files 200] [--encoded 0.6] [--seed 0]

CORPORA holds the folders of the recipe `bundled`. Files are drawn evenly from the test speakers of its
corpora. A share --encoded of them is encoded anew as mp3, m4a, ogg (Vorbis), opus, webm or wav, with the
usual rate and channels of that container.

Headless Chromium opens the page of `emodistill export --web`. The page decodes each file by the browser's
decoder and classifies it. Python classifies the same file with `Recognizer`. The last column is for a page
that leaves resampling to the browser. The exit code is 1 if too few files get the same emotion.

Needs Chromium, playwright and [media].
"""

import argparse
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import numpy as np
import soundfile
import soxr
from playwright.sync_api import sync_playwright

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.config import load_recipe
from emodistill.corpora import Utterance
from emodistill.corpora.load import open_corpus
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.protocol.folds import build_protocol
from emodistill.serving.static_page import export_web

MIN_SAME = 0.99  # share of the files that must get the same emotion
# suffix -> rate, channels, and either the arguments of soundfile or the codec of FFmpeg
ENCODINGS: dict[str, tuple[int, int, dict[str, str] | str]] = {
    ".mp3": (44_100, 2, {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
    ".ogg": (44_100, 1, {"format": "OGG", "subtype": "VORBIS"}),
    ".opus": (48_000, 1, {"format": "OGG", "subtype": "OPUS"}),
    ".wav": (48_000, 2, {"format": "WAV", "subtype": "PCM_16"}),
    ".m4a": (44_100, 1, "aac"),
    ".webm": (48_000, 1, "libopus"),
}
CLASSIFY = """
async (address) => {
  const { Recognizer } = await import('./page/recognizer.js');
  const { decode } = await import('./page/decode.js');
  globalThis.recognizer ??= await Recognizer.load(new URL('./', location.href));
  const file = await (await fetch(address)).blob();
  const buffer = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await file.arrayBuffer());
  const { emotion: plain } = await recognizer.predict(buffer.getChannelData(0));
  const [waveform] = await decode(file);
  return { ...await recognizer.predict(waveform), plain };
}
"""


def main() -> None:
    """Write the page and the files, classify them both ways, and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path, help="folder with the corpora of the recipe `bundled`")
    parser.add_argument("--model", default="bundled", help="bundled, or the folder of an exported model")
    parser.add_argument("--files", type=int, default=200, help="number of files")
    parser.add_argument("--encoded", type=float, default=0.6, help="share of the files that is encoded anew")
    parser.add_argument("--seed", type=int, default=0, help="for the choice of files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "page"
        export_web(given.model, site)
        (site / "files").mkdir()
        chosen = choose_utterances(given.corpora, given.files, given.encoded, given.seed)
        files = [
            write_copy(utterance, site / "files", number, suffix)
            for number, (utterance, suffix) in enumerate(chosen)
        ]
        predictions = Recognizer(given.model, threads=1).predict_all(files)
        rows = list(zip(files, predictions, classify_in_browser(site, files), strict=True))
    show(rows)


def choose_utterances(data: Path, num: int, share: float, seed: int) -> list[tuple[Utterance, str | None]]:
    """Return test utterances, equally many of each corpus, each with the suffix to encode it to.

    The suffix is None for files that keep their encoding.
    """
    recipe = load_recipe("bundled", [f"corpus.root={data}"])
    corpus = open_corpus(recipe.corpus, lambda _: None)
    test = set(build_protocol(corpus, recipe.protocol).folds[0].test)
    by_corpus: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in corpus:
        if utterance.id in test:
            by_corpus[utterance.id.partition("/")[0]].append(utterance)
    rng = np.random.default_rng(seed)
    chosen = [
        group[at]
        for number, group in enumerate(by_corpus.values())
        for at in rng.permutation(len(group))[: len(range(number, num, len(by_corpus)))]
    ]
    suffixes = [*ENCODINGS] * -(-len(chosen) // len(ENCODINGS))
    anew = set(rng.permutation(len(chosen))[: round(share * len(chosen))].tolist())
    return [(utterance, suffixes[index] if index in anew else None) for index, utterance in enumerate(chosen)]


def write_copy(utterance: Utterance, folder: Path, number: int, suffix: str | None) -> Path:
    """Copy a recording, or encode it to `suffix`. The name of the copy says which of the two."""
    assert utterance.path is not None
    if suffix is None:
        return Path(shutil.copyfile(utterance.path, folder / f"{number:03d} as it is{utterance.path.suffix}"))
    rate, channels, encoding = ENCODINGS[suffix]
    sound = soxr.resample(load(utterance.path), SAMPLE_RATE, rate).astype(np.float32)
    path = folder / f"{number:03d} anew{suffix}"
    if isinstance(encoding, dict):
        soundfile.write(path, np.tile(sound[:, None], channels), rate, **encoding)
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoding, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@contextmanager
def serve_folder(site: Path) -> Iterator[str]:
    """Serve a folder as a plain file server does, and give its address."""
    handler = partial(_Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for a request."""


def classify_in_browser(site: Path, files: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the page's prediction for each file."""
    with serve_folder(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)  # on a busy machine
        page.goto(f"{address}/")
        for path in files:
            yield page.evaluate(CLASSIFY, f"files/{quote(path.name)}")
        browser.close()


def show(rows: list[tuple[Path, Prediction, dict[str, Any]]]) -> None:
    """Print a table by container, and each file for which Python and the page disagree.

    Raises `SystemExit` if too few files get the same emotion.
    """
    print("| container | files | same emotion | probabilities differ by: median | 95 % | most |", end=" ")
    print("same emotion if the browser resamples |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    by_kind: dict[str, list[tuple[Prediction, dict[str, Any]]]] = defaultdict(list)
    for path, python, page in rows:
        by_kind[f"{path.suffix[1:]}{path.stem[3:].replace(' anew', '')}"].append((python, page))
    everything = [(python, page) for _, python, page in rows]
    for name, part in [*sorted(by_kind.items()), ("all", everything)]:
        same, plain = (sum(a.emotion == b[key] for a, b in part) for key in ("emotion", "plain"))
        differences = [
            max(
                abs(page["probabilities"][emotion] - value) for emotion, value in python.probabilities.items()
            )
            for python, page in part
            if python.probabilities and page["probabilities"]
        ] or [0.0]
        p50, p95 = np.percentile(differences, [50, 95])
        cells = (
            name, len(part), f"{same} ({100 * same / len(part):.1f} %)", f"{p50:.4f}", f"{p95:.4f}",
            f"{max(differences):.4f}", f"{plain} ({100 * plain / len(part):.1f} %)",
        )  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |")
    for path, python, page in rows:
        if python.emotion != page["emotion"]:
            print(f"\n{path.name}")
            print(f"  Python: {_top(python.emotion or python.reason, python.probabilities)}")
            print(f"  page: {_top(page['emotion'] or page['reason'], page['probabilities'])}")
    share = sum(python.emotion == page["emotion"] for _, python, page in rows) / len(rows)
    if share < MIN_SAME:
        raise SystemExit(
            f"\n{100 * share:.1f} % get the same emotion, expected at least {100 * MIN_SAME:.0f} %"
        )


def _top(answer: str | None, probabilities: dict[str, float]) -> str:
    """Return the answer with its three largest probabilities."""
    best = sorted(probabilities.items(), key=lambda item: -item[1])[:3]
    return f"{answer} ({', '.join(f'{name} {value:.3f}' for name, value in best)})"


if __name__ == "__main__":
    main()
