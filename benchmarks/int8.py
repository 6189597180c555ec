"""Int8 models: our graph pass (`emodistill.export.quantize`) beside ONNX Runtime's `quantize_dynamic`.

    python benchmarks/int8.py RAVDESS WHISPER [--utterances 200] [--rounds 3]

RAVDESS is the folder of the corpus, WHISPER that of Whisper-tiny's encoder. Three students are quantised:

* the bundled student (`compact`);
* a student over all four layers of Whisper-tiny, whose classifier is a linear probe fitted on actors 1 to 12;
* a student over HuBERT-base with random weights, for size and speed alone, on a tenth of the utterances.

Each fp32 model and its quantised models classify the same utterances of actors 13 to 24. All models take
turns at each utterance, on one thread, so that other work on the machine slows all of them alike.

In the rows "front-end kept" the library leaves the filters of the mel spectrogram in fp32, as our pass always
does. Its weights are int8 by default, or uint8. The table gives for each model:

* the size of its file in MB;
* milliseconds for a second of audio, and how many times faster than fp32 that is (medians over rounds);
* the largest difference of a probability from fp32;
* the share of utterances that keep the emotion of fp32, and UA in %.

The bundled student has learned from RAVDESS, so its UA only shows what int8 costs.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import HubertConfig, HubertModel

from emodistill.audio.onnx_session import open_session
from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.config import AudioConfig, AugmentConfig, Recipe, RuntimeConfig, StudentConfig
from emodistill.corpora import Corpus, Utterance, read_corpus
from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.export.onnx import OnnxStudent, write_onnx
from emodistill.export.quantize import quantise_to_int8
from emodistill.features.preparation import prepare_waveform
from emodistill.inference.model_card import BUNDLED
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import read_exported
from emodistill.models.student import Student
from emodistill.models.wav2vec2 import Wav2Vec2
from emodistill.training.stages import SpeechStage

FIRST_TEST_ACTOR = 13
AUDIO = AudioConfig()


@dataclass(frozen=True)
class Subject:
    """A student that is quantised, and the utterances that it classifies."""

    name: str
    student: Student
    labels: LabelSet
    utterances: Sequence[Utterance]
    is_trained: bool = True


def main() -> None:
    """Quantise, measure and print a table in Markdown for each student."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ravdess", type=Path, help="folder of RAVDESS")
    parser.add_argument("whisper", type=Path, help="folder of Whisper-tiny's encoder")
    parser.add_argument("--utterances", type=int, default=200, help="number of utterances (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is classified (default: 3)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # quantize_dynamic recommends its own pre-processing for each model
    torch.manual_seed(0)
    for subject in subjects(options.ravdess, options.whisper, options.utterances):
        with tempfile.TemporaryDirectory() as folder:
            paths = quantised_models(subject.student, Path(folder))
            print(f"\n{subject.name}, {len(subject.utterances)} utterances\n")
            compare(paths, subject, options.rounds)


def subjects(ravdess: Path, whisper: Path, num_utterances: int) -> Iterator[Subject]:
    """The students, one after the other."""
    corpus = read_corpus("ravdess", ravdess)
    train = [item for item in corpus if int(item.speaker) < FIRST_TEST_ACTOR]
    held_out = [item for item in corpus if int(item.speaker) >= FIRST_TEST_ACTOR]
    test = held_out[:: max(1, len(held_out) // num_utterances)][:num_utterances]
    bundled = read_exported(BUNDLED)
    assert isinstance(bundled.model, Student)
    known = [item for item in test if item.emotion in bundled.labels.names]
    yield Subject("The bundled student", bundled.model, bundled.labels, known)
    student = probed_student(whisper, corpus, train)
    yield Subject("A student over Whisper-tiny", student, corpus.labels, test)
    student = random_student(corpus)
    yield Subject("A student over HuBERT-base, random weights", student, corpus.labels, test[::10], False)


def probed_student(whisper: Path, corpus: Corpus, train: Sequence[Utterance]) -> Student:
    """A student over frozen Whisper-tiny whose classifier is a linear probe."""
    config = StudentConfig(backbone=str(whisper), frozen=4, pool=(2, 4), probe=0.65, embedding_dim=256)
    runtime = RuntimeConfig(accelerator="cpu", workers=1)
    recipe = Recipe(name="int8", audio=AUDIO, runtime=runtime)
    stage = SpeechStage("student", recipe, corpus.labels, config, AugmentConfig(), {"prosodic": 128})
    student, _ = stage.initialise(train)
    assert isinstance(student, Student)
    return student.eval()


def random_student(corpus: Corpus) -> Student:
    """A student over HuBERT-base with random weights."""
    backbone = Wav2Vec2(HubertModel(HubertConfig()), None)
    return Student(backbone, StudentConfig(), len(corpus.labels), {"prosodic": 128}).eval()


def quantised_models(student: Student, folder: Path) -> dict[str, Path]:
    """The fp32 model of a student, and what each way of quantising makes of it."""
    exported = OnnxStudent(student, {}).eval()
    write_onnx(exported, folder / "fp32.onnx")
    front_end = {name for name, _ in exported.named_buffers()}
    source = onnx.load(folder / "fp32.onnx")
    del source.graph.value_info[:]  # quantize_dynamic infers shapes itself, and stops where the two differ
    front_end_nodes = [node.name for node in source.graph.node if front_end.intersection(node.input)]

    def library(**options: Any) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            quantize_dynamic(source, path, **options)

        return make

    kept: dict[str, Any] = {"nodes_to_exclude": front_end_nodes}
    matmul: dict[str, Any] = {**kept, "op_types_to_quantize": ["MatMul"]}
    ways: dict[str, Callable[[Path], object]] = {
        "ours": lambda path: quantise_to_int8(folder / "fp32.onnx", path, front_end),
        "ours, MatMul alone": lambda path: quantise_to_int8(
            folder / "fp32.onnx", path, front_end, convolutions=False
        ),
        "theirs, defaults": library(),
        "theirs, front-end kept": library(**kept),
        "theirs, front-end kept, uint8": library(**kept, weight_type=QuantType.QUInt8),
        "theirs, front-end kept, MatMul alone": library(**matmul),
        "theirs, front-end kept, MatMul alone, per channel": library(**matmul, per_channel=True),
    }
    paths = {"fp32": folder / "fp32.onnx"}
    for number, (name, make) in enumerate(ways.items()):
        paths[name] = folder / f"{number}.onnx"
        make(paths[name])
    return paths


def compare(paths: Mapping[str, Path], subject: Subject, rounds: int) -> None:
    """Print a row for each model; `paths` begins with the reference."""
    waveforms = [prepare_waveform(item, AUDIO) for item in subject.utterances]
    labels = subject.labels
    sessions = {name: open_session(path, threads=1) for name, path in paths.items()}
    seconds = {name: np.zeros(rounds) for name in sessions}
    probabilities = {name: np.zeros((len(waveforms), len(labels))) for name in sessions}
    for session in sessions.values():
        classify(session, waveforms[0])  # the first run of a session is slower
    for round_ in range(rounds):
        for row, waveform in enumerate(waveforms):
            for name, session in sessions.items():
                started = time.perf_counter()
                probabilities[name][row] = classify(session, waveform)
                seconds[name][round_] += time.perf_counter() - started
    audio_s = sum(map(len, waveforms)) / SAMPLE_RATE
    truth = [labels.index(str(item.emotion)) for item in subject.utterances]
    expected = probabilities["fp32"]
    print("| model | MB | ms per s of audio | × fp32 | largest difference | same emotion | UA |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, values in probabilities.items():
        predicted = values.argmax(axis=1)
        same = np.mean(predicted == expected.argmax(axis=1))
        ua = f"{100 * unweighted_accuracy(truth, predicted):.1f}" if subject.is_trained else "–"
        print(
            f"| {name} | {paths[name].stat().st_size / 1e6:.2f} "
            f"| {1000 * statistics.median(seconds[name]) / audio_s:.2f} "
            f"| {statistics.median(seconds['fp32'] / seconds[name]):.2f} "
            f"| {np.abs(values - expected).max():.3f} | {100 * same:.1f} % | {ua} |"
        )


def classify(session: onnxruntime.InferenceSession, waveform: Waveform) -> npt.NDArray[np.float32]:
    """Probabilities (emotions,) of a waveform (samples,)."""
    return np.asarray(session.run(["probabilities"], {"waveform": waveform[None]})[0][0])


if __name__ == "__main__":
    main()
