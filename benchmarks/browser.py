"""The page without a server beside Python: the same files, each decoded and judged by both.

    python benchmarks/browser.py CORPORA [--model DIR] [--files 200] [--encoded 0.6] [--seed 0]

CORPORA holds the folders of the recipe `bundled`; files are drawn evenly from the test speakers of its corpora. Some are
taken as they are, a share --encoded of them as mp3, m4a, ogg (Vorbis), opus, webm or wav at a rate and with channels that
are usual there. Headless Chromium opens what `emodistill export --web` writes, decodes each file by its own decoder and
judges it; Python judges the same file through `Recognizer`. Beside it: what the page would say if it left resampling to the
browser. Needs Chromium, playwright and [media].
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
from emodistill.inference.recognizer import Prediction, Recognizer
from emodistill.protocol.folds import build_protocol
from emodistill.serving.static_page import export_web

WANTED = 0.99  # of the files get the same emotion
ENCODINGS = {  # suffix -> rate, channels, how it is written
    ".mp3": (44_100, 2, {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
    ".ogg": (44_100, 1, {"format": "OGG", "subtype": "VORBIS"}),
    ".opus": (48_000, 1, {"format": "OGG", "subtype": "OPUS"}),
    ".wav": (48_000, 2, {"format": "WAV", "subtype": "PCM_16"}),
    ".m4a": (44_100, 1, "aac"),
    ".webm": (48_000, 1, "libopus"),
}
JUDGE = """
async (address) => {
  const { Recognizer } = await import('./page/recognizer.js');
  const { decode } = await import('./page/decode.js');
  globalThis.held ??= await Recognizer.load();
  const file = await (await fetch(address)).blob();
  const buffer = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await file.arrayBuffer());
  const { emotion: plain } = await held.predict(buffer.getChannelData(0));
  return { ...await held.predict(await decode(file)), plain };
}
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--model", default="bundled", help="bundled, or the folder of an exported model")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--encoded", type=float, default=0.6, help="share that is encoded anew")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "page"
        export_web(given.model, site)
        (site / "files").mkdir()
        files = [
            encoded(utterance, site / "files", number, suffix)
            for number, (utterance, suffix) in enumerate(
                drawn(given.corpora, given.files, given.encoded, given.seed)
            )
        ]
        own = Recognizer(given.model, threads=1).predict_all(files)
        pairs = list(zip(files, own, judged(site, files), strict=True))
    show(pairs)


def drawn(data: Path, num: int, share: float, seed: int) -> list[tuple[Utterance, str | None]]:
    """Test utterances, as many of each corpus, each with the container that it is to be in; None: its own."""
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
    return [(one, suffixes[at] if at in anew else None) for at, one in enumerate(chosen)]


def encoded(utterance: Utterance, folder: Path, number: int, suffix: str | None) -> Path:
    """A copy of a recording, in another container if that is asked for; its name says of which kind it is."""
    assert utterance.path is not None
    if suffix is None:
        return Path(shutil.copyfile(utterance.path, folder / f"{number:03d} as it is{utterance.path.suffix}"))
    rate, channels, how = ENCODINGS[suffix]
    sound = soxr.resample(load(utterance.path), SAMPLE_RATE, rate).astype(np.float32)
    path = folder / f"{number:03d} anew{suffix}"
    if isinstance(how, dict):
        soundfile.write(path, np.tile(sound[:, None], channels), rate, **how)
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream(how, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of a folder, behind a plain file server."""
    handler = partial(_Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def judged(site: Path, files: list[Path]) -> Iterator[dict[str, Any]]:
    """What the page says of each file."""
    with served(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)  # on a busy machine
        page.goto(f"{address}/")
        for path in files:
            yield page.evaluate(JUDGE, f"files/{quote(path.name)}")
        browser.close()


def show(pairs: list[tuple[Path, Prediction, dict[str, Any]]]) -> None:
    """A table by container, and every disagreement."""
    print(
        "| container | files | same emotion | probabilities differ by, median | 95 % | most | same, resampled by the browser |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    by_kind: dict[str, list[tuple[Prediction, dict[str, Any]]]] = defaultdict(list)
    for path, own, said in pairs:
        by_kind[f"{path.suffix[1:]}{path.stem[3:].replace(' anew', '')}"].append((own, said))
    everything = [(own, said) for _, own, said in pairs]
    for name, part in [*sorted(by_kind.items()), ("all", everything)]:
        same, plain = (sum(own.emotion == said[key] for own, said in part) for key in ("emotion", "plain"))
        moved = [
            max(abs(said["probabilities"][emotion] - value) for emotion, value in own.probabilities.items())
            for own, said in part
            if own.probabilities and said["probabilities"]
        ] or [0.0]
        p50, p95 = np.percentile(moved, [50, 95])
        print(
            f"| {name} | {len(part)} | {same} ({100 * same / len(part):.1f} %) | {p50:.4f} | {p95:.4f} | {max(moved):.4f} "
            f"| {plain} ({100 * plain / len(part):.1f} %) |"
        )
    for path, own, said in pairs:
        if own.emotion != said["emotion"]:
            print(f"\n{path.name}: Python says {_told(own.emotion or own.reason, own.probabilities)}")
            print(f"  the page {_told(said['emotion'] or said['reason'], said['probabilities'])}")
    share = sum(own.emotion == said["emotion"] for _, own, said in pairs) / len(pairs)
    raise SystemExit(
        None if share >= WANTED else f"\n{100 * share:.1f} % the same, {100 * WANTED:.0f} % wanted"
    )


def _told(what: str | None, probabilities: dict[str, float]) -> str:
    best = sorted(probabilities.items(), key=lambda item: -item[1])[:3]
    return f"{what} ({', '.join(f'{name} {value:.3f}' for name, value in best)})"


if __name__ == "__main__":
    main()
