"""Every reader of outside bytes as a function of bytes: the registry of `scripts/fuzz.py` and `test_fuzz.py`.

A reader of several files gets them from one input: `FILE` lines stand between them. To add a reader: a
function that calls it, its seeds, and an entry in `TARGETS`.
"""

import hashlib
import io
import json
import wave
from collections.abc import Callable, Iterable, Mapping
from contextlib import chdir, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.errors import EmodistillError

FILE = b"\n--- next file ---\n"  # between the files of an input
MAX_S = 20.0  # of a recording that a target decodes to its end
RATE = 16_000
Run = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Target:
    """A reader of outside bytes.

    Attributes:
        name: on the command line of `scripts/fuzz.py`.
        run: reads an input; the folder is empty, or holds what the inputs before it left there.
        seeds: valid inputs.
        allowed: the errors that the reader may raise; each other error is a finding.
        in_process: whether the tests may run it in their own process: its native code does not crash.
    """

    name: str
    run: Run
    seeds: Callable[[], Iterable[bytes]]
    allowed: tuple[type[Exception], ...] = (EmodistillError,)
    in_process: bool = True

    def try_input(self, data: bytes, folder: Path) -> None:
        """Read an input. Raises each error that the reader must not raise."""
        with suppress(*self.allowed):
            self.run(data, folder)


# --- audio -----------------------------------------------------------------------------------------


def _sound(length_s: float = 0.4) -> np.ndarray:
    time = np.arange(round(length_s * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 220 * time) * np.sin(2 * np.pi * 3 * time)).astype(np.float32)


def _sndfile_seeds() -> Iterable[bytes]:
    import soundfile

    sounds = {1: _sound(), 2: np.stack([_sound(), 0.5 * _sound()], axis=1)}
    kinds = [
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "MS_ADPCM"), ("WAV", "GSM610"),
        ("WAVEX", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "ALAC_16"),
        ("W64", "PCM_16"), ("RF64", "PCM_16"), ("VOC", "PCM_16"), ("NIST", "PCM_16"),
    ]  # fmt: skip
    for format, subtype in kinds:
        for channels in (1,) if subtype == "GSM610" else (1, 2):
            file = io.BytesIO()
            soundfile.write(file, sounds[channels], RATE, format=format, subtype=subtype)
            yield file.getvalue()


MEDIA = {  # container -> codec, and its rate in Hz
    "mp4": ("aac", RATE), "mov": ("pcm_s16le", RATE), "adts": ("aac", RATE), "webm": ("libopus", 48_000),
    "mpegts": ("mp2", RATE), "mpeg": ("mp2", RATE), "avi": ("pcm_s16le", RATE), "flv": ("aac", RATE),
    "wv": ("wavpack", RATE), "tta": ("tta", RATE), "ac3": ("ac3", 32_000), "3gp": ("aac", RATE),
    "wav": ("adpcm_ima_wav", RATE), "amr": ("libopencore_amrnb", 8_000), "ipod": ("alac", RATE),
    "g722": ("g722", RATE),
}  # fmt: skip


@lru_cache(maxsize=1)
def _media_files() -> Mapping[str, bytes]:
    """Return a short recording in each container."""
    import av

    files: dict[str, bytes] = {}
    samples = (_sound() * 32767).astype(np.int16)[None]
    for name, (codec, rate_hz) in MEDIA.items():
        file = io.BytesIO()
        with av.open(file, "w", format=name) as container:
            stream: Any = container.add_stream(codec, rate=rate_hz, layout="mono")
            stream.codec_context.open()
            resampler = av.AudioResampler(
                stream.format, "mono", rate_hz, frame_size=stream.codec_context.frame_size or None
            )
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = RATE
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
        files[name] = file.getvalue()
    return files


def _audio_seeds() -> Iterable[bytes]:
    yield from _sndfile_seeds()
    yield from _media_files().values()


def _audio_bytes(data: bytes, folder: Path) -> None:
    """Read a recording as the server does, and as `predict` does for one that is not too long."""
    from emodistill.audio.decoding import num_channels, read_header
    from emodistill.audio.recording import Recording
    from emodistill.audio.waveform import load_bounded, measure_channels

    read_header(data)
    with suppress(EmodistillError):
        num_channels(data)
    with suppress(EmodistillError):
        measure_channels(data, MAX_S)
    load_bounded(data, MAX_S)  # Raises for a longer recording, so the next reader ends too.
    recording = Recording(data, None)
    for _ in recording.windows():
        pass


def _audio_file(data: bytes, folder: Path) -> None:
    """Read parts of a file, as training and `predict --from` do."""
    from emodistill.audio.decoding import duration_up_to
    from emodistill.audio.waveform import load
    from emodistill.corpora.parts import write_part

    path = folder / "clip.wav"
    path.write_bytes(data)
    with suppress(EmodistillError):
        duration_up_to(MAX_S, path)
    with suppress(EmodistillError):
        load(path, 0.1, 0.3)
    with suppress(EmodistillError):
        load(path, 1.5, 2.0, channel=1)
    with suppress(EmodistillError):
        write_part(path, folder / "part.flac", 0.1, 0.2)


def _audio_whole(data: bytes, folder: Path) -> None:
    """Decode a whole recording into memory."""
    from emodistill.audio.waveform import load, load_bounded

    load_bounded(data, MAX_S)
    load(data)


def _audio_stream(data: bytes, folder: Path) -> None:
    """Feed the streaming decoder in pieces, as a WebSocket does."""
    from emodistill.serving.decoder import StreamingDecoder

    decoder = StreamingDecoder()
    decoded_s = 0.0
    try:
        for start in range(0, len(data), 500):
            decoder.feed(data[start : start + 500])
            while (taken := decoder.take()) is not None:
                rate, samples = taken
                decoded_s += len(samples) / rate
                if decoded_s > MAX_S:
                    return
        decoder.feed(b"")
        while (taken := decoder.take()) is not None:
            decoded_s += len(taken[1]) / taken[0]
            if decoded_s > MAX_S:
                return
    finally:
        decoder.close()


def _wav_header(data: bytes, folder: Path) -> None:
    from emodistill.audio.wav_header import read_wav_header

    read_wav_header(io.BytesIO(data).read, "the audio")


def _wav_header_seeds() -> Iterable[bytes]:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(bytes(320))
    yield file.getvalue()[4:]


# --- corpora ---------------------------------------------------------------------------------------

ROWS = """id,speaker,emotion,path,start_s,end_s,duration_s,session,gender,language,transcript,split,arousal,\
valence,votes,scale
a,s1,angry,clip.wav,,,0.4,1,F,en,stop it,train,4,2,"{""angry"": 2, ""sad"": 1}",1..5
b,s2,sad,clip.wav,0.1,0.3,0.2,1,m,en,,test,,,,
c,s3,happy;sad;sad,deep/other.wav,,,,,,,,,,,,
"""


def _clip(folder: Path) -> None:
    """Write clip.wav, which the seeds name."""
    if not (path := folder / "clip.wav").is_file():
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(RATE)
            out.writeframes((_sound() * 32767).astype("<i2").tobytes())
        path.write_bytes(file.getvalue())


def _manifest(suffix: str) -> Run:
    def run(data: bytes, folder: Path) -> None:
        from emodistill.corpora.base import drop_bad_audio
        from emodistill.corpora.manifest import read_manifest, write_manifest

        _clip(folder)
        path = folder / f"manifest{suffix}"
        path.write_bytes(data)
        corpus, _ = drop_bad_audio(read_manifest(path))
        write_manifest(corpus, folder / "written.csv")

    return run


def _parquet_seeds() -> Iterable[bytes]:
    import pyarrow.parquet

    rows = [
        {"id": "a", "speaker": "s1", "emotion": "angry", "path": "clip.wav", "arousal": 2.0, "scale": "1..5"},
        {"id": "b", "speaker": "s2", "emotion": "sad", "path": "clip.wav", "arousal": None, "scale": None},
    ]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    yield file.getvalue()


def _files(data: bytes, folder: Path, names: Iterable[str]) -> None:
    """Write the parts of an input as files; a name without a part is no file."""
    parts = data.split(FILE)
    for place, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if place < len(parts):
            path.write_bytes(parts[place])


def _joined(*parts: str | bytes) -> bytes:
    return FILE.join(part.encode() if isinstance(part, str) else part for part in parts)


def _read_bridge(name: str, folder: Path) -> None:
    """Read the corpus of another program, as `corpus prepare` does."""
    from emodistill.corpora.base import drop_bad_audio
    from emodistill.corpora.load import read_own_table
    from emodistill.corpora.readers import TABLE_READERS
    from emodistill.corpora.tables import TableOptions

    options = TableOptions(audio_out=folder / "audio-out")
    table = TABLE_READERS[name].read(folder, options)
    drop_bad_audio(read_own_table(table, {}, {}, "all", None, lambda text: None))


def _kaldi(data: bytes, folder: Path) -> None:
    _files(data, folder / "data", ("wav.scp", "segments", "utt2spk", "utt2emo", "text", "spk2gender"))
    _clip(folder / "data")
    _read_bridge("kaldi", folder / "data")


def _kaldi_seeds() -> Iterable[bytes]:
    yield _joined("a clip.wav\nb clip.wav\n")
    yield _joined(
        "call clip.wav\n", "a call 0 0.2\nb call 0.2 -1 0\n", "a s1\nb s2\n", "a angry\nb sad\n",
        "a stop it\nb oh no\n", "s1 f\ns2 m\n",
    )  # fmt: skip


CUT = {
    "id": "cut-1", "start": 0.0, "duration": 0.4, "channel": 0, "type": "MonoCut",
    "supervisions": [
        {"id": "a", "recording_id": "clip", "start": 0.0, "duration": 0.2, "channel": 0, "text": "stop it",
         "language": "en", "speaker": "s1", "gender": "f", "custom": {"emotion": "angry"}},
    ],
    "recording": {
        "id": "clip", "sources": [{"type": "file", "channels": [0], "source": "clip.wav"}],
        "sampling_rate": RATE, "num_samples": 6400, "duration": 0.4, "channel_ids": [0],
    },
}  # fmt: skip


def _lhotse(data: bytes, folder: Path) -> None:
    is_packed = data.startswith(b"\x1f\x8b")
    for path in folder.glob("*cuts*"):
        path.unlink()
    _clip(folder)
    (folder / f"cuts_train.jsonl{'.gz' if is_packed else ''}").write_bytes(data)
    _read_bridge("lhotse", folder)


def _lhotse_seeds() -> Iterable[bytes]:
    import gzip

    text = json.dumps(CUT).encode() + b"\n"
    yield text
    yield gzip.compress(text, mtime=0)


DATABASE = """name: tiny
source: internal
usage: unrestricted
languages: [eng]
schemes:
  emotion: {dtype: str, labels: [angry, sad]}
  speaker: {dtype: str, labels: {s1: {gender: female}, s2: {gender: male}}}
  arousal: {dtype: float, minimum: 0, maximum: 1}
tables:
  files:
    type: filewise
    columns:
      emotion: {scheme_id: emotion}
      speaker: {scheme_id: speaker}
      arousal: {scheme_id: arousal}
"""


def _audformat(data: bytes, folder: Path) -> None:
    import warnings

    _clip(folder)
    _files(data, folder, ("db.yaml", "db.files.csv"))
    for path in folder.glob("*.pkl"):
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # audformat's own
        _read_bridge("audformat", folder)


def _audformat_seeds() -> Iterable[bytes]:
    yield _joined(DATABASE, "file,emotion,speaker,arousal\nclip.wav,angry,s1,0.5\nother.wav,sad,s2,0.1\n")


def _audiofolder(suffix: str) -> Run:
    def run(data: bytes, folder: Path) -> None:
        _clip(folder)
        (folder / f"metadata{suffix}").write_bytes(data)
        _read_bridge("audiofolder", folder)

    return run


def _corpus(name: str, text: str) -> Run:
    """The reader of one corpus, whose folder is that of the tests; the input replaces one text file."""

    def run(data: bytes, folder: Path) -> None:
        import factories_corpora

        from emodistill.corpora.readers import READERS

        if not any(folder.iterdir()):
            getattr(factories_corpora, name)(folder)
        (path,) = sorted(folder.rglob(text))[:1]
        path.write_bytes(data)
        READERS[name.replace("_", "-")].read(folder)

    return run


def _corpus_seeds(name: str, text: str) -> Callable[[], Iterable[bytes]]:
    def seeds() -> Iterable[bytes]:
        import tempfile

        import factories_corpora

        with tempfile.TemporaryDirectory() as folder:
            getattr(factories_corpora, name)(Path(folder))
            yield sorted(Path(folder).rglob(text))[0].read_bytes()

    return seeds


def _words(data: bytes, folder: Path) -> None:
    from emodistill.corpora.base import Corpus, Utterance
    from emodistill.corpora.words import add_words

    kinds = {b"{": "words.json", b"i": "words.csv"}
    name = kinds.get(data[:1], "words.ctm")
    path = folder / "words" / name if name.endswith(".json") else folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    corpus = Corpus("tiny", (Utterance("a", "s1", "angry"), Utterance("words", "s1", "angry")))
    add_words(corpus, path.parent if name.endswith(".json") else path)


def _words_seeds() -> Iterable[bytes]:
    yield b"id,start_s,end_s,word\na,0.1,0.2,stop\na,0.2,0.3,it\n"
    yield b"a 1 0.1 0.1 stop 0.9\na 1 0.2 0.1 it\n"
    yield json.dumps({"segments": [{"words": [{"word": "stop", "start": 0.1, "end": 0.2}]}]}).encode()


def _fold_list(data: bytes, folder: Path) -> None:
    from emodistill.corpora.base import Corpus, Utterance
    from emodistill.protocol.fold_lists import read_fold_list

    (folder / "folds.csv").write_bytes(data)
    corpus = Corpus("tiny", tuple(Utterance(name, f"s{name}", "angry") for name in "abcd"))
    read_fold_list(folder / "folds.csv", corpus)


# --- options, lists and segments -------------------------------------------------------------------


def _input_list(data: bytes, folder: Path) -> None:
    from emodistill.inference.input_lists import read_list
    from emodistill.inference.inputs import num_rows

    (folder / "list.txt").write_bytes(data)
    for item in read_list(folder / "list.txt"):
        num_rows(item, "split")
        _ = item.key, item.audio, item.duration_s()


def _input_list_seeds() -> Iterable[bytes]:
    yield b"clip.wav\ndeep/other.wav\n"
    yield b"path,id,start,end,speaker,channel\nclip.wav,a,0.1,0:00.3,s1,0\nclip.wav,b,,,,\n"
    yield json.dumps({"path": "clip.wav", "id": "a", "start": 0.1, "end": "1:02", "channel": 1}).encode()


def _recipe(data: bytes, folder: Path) -> None:
    from emodistill.config import load_recipe
    from emodistill.config.recipe import recipe_toml

    (folder / "recipe.toml").write_bytes(data)
    recipe_toml(load_recipe(folder / "recipe.toml"))


def _recipe_seeds() -> Iterable[bytes]:
    from emodistill.config.recipe import shipped_recipes

    for path in shipped_recipes().values():
        yield path.read_bytes()


def _defaults(data: bytes, folder: Path) -> None:
    from emodistill.cli.defaults import VERBS, read_defaults

    (folder / "emodistill.toml").write_bytes(data)
    with chdir(folder):
        for verb in VERBS:
            read_defaults(verb, _verbs())


@lru_cache(maxsize=1)
def _verbs() -> Mapping[str, Callable[..., Any]]:
    from emodistill.cli import app

    found = [command.callback for command in app.registered_commands if command.callback is not None]
    return {callback.__name__: callback for callback in found}


def _segments(data: bytes, folder: Path) -> None:
    from emodistill.inference.given_segments import parse_segments

    parse_segments(data, "the segments").for_recording("clip.wav")
    parse_segments(data, "the segments", num_recordings=2)


def _segments_seeds() -> Iterable[bytes]:
    yield b"SPEAKER clip 1 0.50 1.25 <NA> <NA> anna <NA> <NA>\nSPEAKER clip 2 2.0 1 <NA> <NA> ben <NA> <NA>\n"
    yield b"start,end,speaker,path,channel,text\n0.1,1:02.5,anna,clip.wav,0,stop it\n2,3,ben,clip.wav,1,\n"
    word = {"word": "stop", "start": 0.1, "end": 0.4, "speaker": "anna"}
    part = {"start": 0.1, "end": 0.9, "text": "stop it", "speaker": "anna", "words": [word], "channel": 0}
    yield json.dumps({"segments": [part, {"words": [word]}]}).encode()
    yield json.dumps({"diarization": [{"start": 0.1, "end": 0.9, "speaker": "anna"}]}).encode()


def _resumed_rows(data: bytes, folder: Path) -> None:
    from emodistill.inference.resume import finished_keys

    _files(data, folder, ("rows.jsonl", ".rows.jsonl.made_with.json"))
    finished_keys(folder / "rows.jsonl", {"clip.wav": "clip.wav"}, ("angry", "sad"), {"model": "x"})


def _resumed_rows_seeds() -> Iterable[bytes]:
    row = {"path": "clip.wav", "error": None, "probabilities": {"angry": 0.7, "sad": 0.3}, "channel": None}
    part = {**row, "start_s": 0.0, "end_s": 1.0, "id": None}
    noted = {"model": "x", "inputs": {"clip.wav": [12, 34]}}
    yield _joined(json.dumps(row) + "\n" + json.dumps(part) + "\n", json.dumps(noted))


# --- models ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _model_parts() -> tuple[bytes, bytes]:
    """Return the card and the graph of a tiny exported model."""
    import tempfile

    from factories_voices import model_without_voices

    with tempfile.TemporaryDirectory() as folder:
        made = model_without_voices(Path(folder))
        return (made / "card.json").read_bytes(), (made / "model.onnx").read_bytes()


def _card(data: bytes, folder: Path) -> None:
    """Open a model with this card; its graph is whole."""
    from emodistill import Recognizer

    (folder / "card.json").write_bytes(data)
    (folder / "model.onnx").write_bytes(_model_parts()[1])
    recognizer = Recognizer(folder, threads=1)
    recognizer.predict(_sound(), RATE)
    recognizer.student.run(_sound())


def _graph(data: bytes, folder: Path) -> None:
    """Open a model with this graph; its card states the graph's hash."""
    from emodistill import Recognizer

    card = json.loads(_model_parts()[0])
    card["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "model.onnx").write_bytes(data)
    Recognizer(folder, threads=1).student.run(_sound())


def _description(data: bytes, folder: Path) -> None:
    from emodistill.inference.model_card import known_ids, read_description

    known_ids(read_description(data.decode("latin-1")))


def _description_seeds() -> Iterable[bytes]:
    from emodistill.inference.model_card import pack_description

    described = {"emotions": ["angry", "sad"], "dimensions": [], "training_ids": ["a"], "dev_ids": ["b"]}
    yield json.dumps(described).encode()
    yield pack_description(described).encode()


def _voice(data: bytes, folder: Path) -> None:
    from emodistill import Voice

    voice = Voice.from_json(data)
    voice.shrunk()
    _ = voice + voice
    Voice.from_json(voice.to_json())


def _voice_seeds() -> Iterable[bytes]:
    from emodistill import Voice

    yield Voice("0" * 64, np.array([0.5, -1.25]), 3, 4.5).to_json().encode()


def _safetensors(data: bytes, folder: Path) -> None:
    from emodistill.inference.fetch import Safetensors

    (folder / "model.safetensors").write_bytes(data)
    stored = Safetensors(folder / "model.safetensors")
    for key in stored.shapes:
        stored.read(key)


def _tensors(**arrays: np.ndarray) -> bytes:
    import safetensors.numpy

    packed: bytes = safetensors.numpy.save(arrays)
    return packed


def _safetensors_seeds() -> Iterable[bytes]:
    yield _tensors(**{"model.encoder.a": np.ones((2, 3), dtype=np.float32)})


@lru_cache(maxsize=1)
def _checkpoint_parts() -> tuple[bytes, bytes]:
    """Return the description and the weights of a tiny teacher."""
    import tempfile

    from emodistill.config import ProsodicConfig
    from emodistill.labels import LabelSet
    from emodistill.models.checkpoint import save_checkpoint
    from emodistill.models.prosodic import ProsodicTeacher

    config = ProsodicConfig()
    with tempfile.TemporaryDirectory() as folder:
        labels = LabelSet(("angry", "sad"))
        save_checkpoint(Path(folder), ProsodicTeacher(config, 2), labels, ["a"], ["b"])
        return tuple((Path(folder) / name).read_bytes() for name in ("model.json", "model.safetensors"))


def _checkpoint(data: bytes, folder: Path) -> None:
    """Load a teacher with this description; its weights are whole."""
    from emodistill.models.checkpoint import load_checkpoint

    (folder / "model.json").write_bytes(data)
    (folder / "model.safetensors").write_bytes(_checkpoint_parts()[1])
    load_checkpoint(folder)


def _weights(data: bytes, folder: Path) -> None:
    """Load a teacher with these weights; its description is whole."""
    from emodistill.models.checkpoint import load_checkpoint

    (folder / "model.json").write_bytes(_checkpoint_parts()[0])
    (folder / "model.safetensors").write_bytes(data)
    load_checkpoint(folder)


def _array(data: bytes, folder: Path) -> None:
    from emodistill.features.cache import ArrayCache

    cache = ArrayCache(folder)
    path = cache.path("ab")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    cache.read("ab")


def _array_seeds() -> Iterable[bytes]:
    file = io.BytesIO()
    np.save(file, np.ones((2, 3), dtype=np.float16))
    yield file.getvalue()


def _pretrained_config(data: bytes, folder: Path) -> None:
    from emodistill.models.pretrained import find_pretrained

    (folder / "config.json").write_bytes(data)
    (folder / "model.safetensors").write_bytes(b"")
    find_pretrained(str(folder), "student.backbone")


# --- run folders -----------------------------------------------------------------------------------

PREDICTIONS = """utterance,fold,speaker,emotion,predicted,p_angry,p_sad
a,0,s1,angry,angry,0.7000000,0.3000000
b,0,s2,sad,angry,0.6000000,0.4000000
"""
KNOWN = """utterance,fold,corpus,speaker,truth,predicted,known,used,draw,variant
a,0,tiny,s1,angry,angry,0,0,0,drawn
b,0,tiny,s2,sad,sad,0,0,0,drawn
"""

ABLATION = """{"rows": [{"cell": "full", "group": "student", "values": 4}], "reference": "full",
"num_speakers": 4, "num_seeds": 1, "left_out": {"x": "y"}, "closed_gap": null, "same": ["a"]}"""


def _predictions(data: bytes, folder: Path) -> None:
    from emodistill.evaluation.predictions import read_predictions, write_predictions

    (folder / "predictions.csv").write_bytes(data)
    table = read_predictions(folder / "predictions.csv")
    if len(table):
        table.scores()
    write_predictions(table, folder / "written.csv")


def _dimensions(data: bytes, folder: Path) -> None:
    from emodistill.evaluation.dimension_predictions import read_dimensions

    (folder / "dimensions.csv").write_bytes(data)
    read_dimensions(folder / "dimensions.csv")


def _dimensions_seeds() -> Iterable[bytes]:
    import tempfile

    from emodistill.evaluation.dimension_predictions import DimensionPredictions, write_dimensions

    table = DimensionPredictions(
        dimensions=("arousal", "valence"), utterances=("a", "b"), folds=("0", "0"), speakers=("s1", "s2"),
        truth=np.array([[0.5, 0.25], [0.1, np.nan]]),
        predicted=np.array([[0.4, 0.25], [0.2, 0.5]]),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        write_dimensions(table, Path(folder) / "dimensions.csv")
        yield (Path(folder) / "dimensions.csv").read_bytes()


def _known(data: bytes, folder: Path) -> None:
    from emodistill.evaluation.known import read_known
    from emodistill.labels import LabelSet

    (folder / "known.csv").write_bytes(data)
    read_known(folder / "known.csv", LabelSet(("angry", "sad")))


def _protocol(data: bytes, folder: Path) -> None:
    from emodistill.protocol.folds import read_protocol

    (folder / "protocol.json").write_bytes(data)
    read_protocol(folder / "protocol.json")


@lru_cache(maxsize=1)
def _protocol_text() -> bytes:
    import tempfile

    from emodistill.protocol.folds import Fold, Protocol

    folds = (Fold("0", ("a",), ("b",), ("c",)), Fold("1", ("b",), ("c",), ("a",)))
    with tempfile.TemporaryDirectory() as folder:
        Protocol("tiny", "two folds", folds, ()).write(Path(folder) / "protocol.json")
        return (Path(folder) / "protocol.json").read_bytes()


def _run_folder(data: bytes, folder: Path) -> None:
    from emodistill.evaluation.cost import read_cost
    from emodistill.evaluation.run import read_run

    _files(data, folder, ("scores.json", "protocol.json", "recipe.toml", "cost.json"))
    with suppress(EmodistillError):
        read_cost(folder)
    read_run(folder)


def _run_folder_seeds() -> Iterable[bytes]:
    scores = {
        "folds": ["0", "1"], "models": {"student": {"test": {"ua": 0.5}}}, "sha256": {"predictions.csv": "0"},
    }  # fmt: skip
    recipe = next(iter(_recipe_seeds()))
    cost = {"machine": {"cpu": "x"}, "models": {"student": {"parameters": 3, "training": {}}}}
    yield _joined(json.dumps(scores), _protocol_text(), recipe, json.dumps(cost))


def _ablation(data: bytes, folder: Path) -> None:
    from emodistill.evaluation.ablation_table import read_ablation

    (folder / "ablation.json").write_bytes(data)
    read_ablation(folder / "ablation.json")


def _fit_result(data: bytes, folder: Path) -> None:
    from emodistill.training.fit import FitResult

    (folder / "fit.json").write_bytes(data)
    FitResult.read(folder / "fit.json")


def _targets(data: bytes, folder: Path) -> None:
    from emodistill.training.targets import TeacherTargets

    (folder / "targets.safetensors").write_bytes(data)
    TeacherTargets.read(folder / "targets.safetensors", ["a", "b"])


def _targets_seeds() -> Iterable[bytes]:
    import safetensors.numpy

    arrays = {
        "logits": np.ones((2, 1, 2), dtype=np.float32), "embedding": np.ones((2, 1, 4), dtype=np.float32),
        "available": np.ones((2, 1), dtype=np.uint8),
    }  # fmt: skip
    metadata = {"teacher": "prosodic", "method": "in-sample", "ids": json.dumps(["a", "b"])}
    yield safetensors.numpy.save(arrays, metadata=metadata)


# --- servers ---------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _client() -> Any:
    """Return a client of a server whose models are tiny; it stays open."""
    import tempfile

    from factories_voices import voice_model
    from fastapi.testclient import TestClient

    from emodistill.serving.app import create_app
    from emodistill.serving.settings import Settings

    folder = voice_model(Path(tempfile.mkdtemp(prefix="emodistill-fuzz-")) / "model")
    settings = Settings(threads=1, models=(str(folder),), max_bytes=2_000_000, idle_s=5.0, max_seconds=60.0,
                        max_predict_seconds=60.0, max_stream_seconds=60.0, max_files=4)  # fmt: skip
    client = TestClient(create_app(settings), raise_server_exceptions=False)
    client.__enter__()
    return client


class ServerFailed(Exception):
    """The server answered with status 500 or more, or ended a stream with an internal error."""


PATHS = ("/v1/predict", "/v1/timeline", "/v1/voices", "/v1/audio", "/v1/jobs")
BOUNDARY = "frontier"


def _http(data: bytes, folder: Path) -> None:
    """Send a body; its first line is a path and a content type."""
    head, _, body = data.partition(b"\n")
    path, _, kind = head.decode("latin-1").partition(" ")
    if not path.startswith("/v1/") or any(not " " <= mark <= "~" for mark in head.decode("latin-1")):
        path = PATHS[len(data) % len(PATHS)]
    answer = _client().post(
        path[:100],
        content=body,
        headers={"Content-Type": _header(kind) or f"multipart/form-data; boundary={BOUNDARY}"},
    )
    if answer.status_code >= 500 and answer.status_code != 503:
        raise ServerFailed(f"{path}: {answer.status_code} {answer.text[:200]}")


def _header(text: str) -> str:
    return "".join(mark for mark in text if " " <= mark <= "~").strip()[:200]


def _form(path: str, fields: Mapping[str, str | bytes], wav: bytes) -> bytes:
    lines: list[bytes] = []
    for name, value in fields.items():
        content = value.encode() if isinstance(value, str) else value
        named = '; filename="v.json"' if name in ("voice", "segments") else ""
        lines += [
            b"--frontier",
            f'Content-Disposition: form-data; name="{name}"{named}'.encode(),
            b"",
            content,
        ]
    lines += [b"--frontier", b'Content-Disposition: form-data; name="files"; filename="a.wav"', b"", wav]
    body = b"\r\n".join([*lines, b"--frontier--", b""])
    return f"{path} multipart/form-data; boundary={BOUNDARY}\n".encode() + body


def _http_seeds() -> Iterable[bytes]:
    (wav,) = list(_wav_header_seeds())
    whole, voice = b"RIFF" + wav, next(iter(_voice_seeds()))
    yield _form("/v1/predict", {"emotions": "angry,sad", "min_confidence": "dev:0.8", "channel": "0"}, whole)
    yield _form("/v1/predict", {"voice": voice, "adapt": "none"}, whole)
    segments = next(iter(_segments_seeds()))
    fields = {"channels": "split", "names": "a,b", "smooth": "1.5", "hop": "1"}
    yield _form("/v1/timeline", {"segments": segments, "window": "2"}, whole)
    yield _form("/v1/timeline", fields, whole)
    yield _form("/v1/voices", {}, whole)
    yield _form("/v1/audio", {}, whole)
    yield b'/v1/predict application/json\n{"files": [1]}'


def _stream(data: bytes, folder: Path) -> None:
    """Send the messages of a stream: the first byte of each says whether it is text."""
    from starlette.websockets import WebSocketDisconnect

    with _client().websocket_connect("/v1/stream") as socket:
        try:
            for part in data.split(FILE):
                if part[:1] == b"b":
                    socket.send_bytes(part[1:])
                else:
                    socket.send_text(part[1:].decode("utf-8", "replace"))
            socket.send_text('{"type": "end"}')
            while True:
                event = json.loads(socket.receive_text())
                if event["event"] == "error" and event["status"] >= 500 and event["status"] != 503:
                    raise ServerFailed(event["detail"])
                if event["event"] in ("summary", "error"):
                    break
        except WebSocketDisconnect as error:
            if error.code == 1011:
                raise ServerFailed("close code 1011") from error


def _stream_seeds() -> Iterable[bytes]:
    pcm = (_sound(0.6) * 32767).astype("<i2").tobytes()
    yield _joined(b't{"encoding": "pcm16", "rate": 16000, "channels": 1}', b"b" + pcm)
    yield _joined(b't{"encoding": "float32", "rate": 8000, "updates": true}', b"b" + _sound(0.3).tobytes())
    start = {
        "encoding": "pcm16",
        "rate": 16000,
        "emotions": ["angry"],
        "adapt": "running",
        "min_confidence": 0.2,
    }
    yield _joined(b"t" + json.dumps(start).encode(), b"b" + pcm[:3200], b"tx")
    webm = _media_files()["webm"]
    yield _joined(b't{"encoding": "webm"}', b"b" + webm[:400], b"b" + webm[400:])


def _mcp(data: bytes, folder: Path) -> None:
    """Call a tool of the MCP server, by its name and JSON arguments, as a client does."""
    import asyncio

    from emodistill.integrations.mcp import build_server

    name, _, text = data.partition(b"\n")
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(arguments, dict):
        return
    calls, voices = folder / "calls", folder / "voices"
    calls.mkdir(exist_ok=True)
    voices.mkdir(exist_ok=True)
    _clip(calls)
    from mcp.server.mcpserver.exceptions import ToolError

    server = build_server(_tiny_recognizer(), [calls], voices)
    before = set(folder.iterdir())
    with suppress(ToolError):
        asyncio.run(server.call_tool(name.decode("utf-8", "replace"), arguments))
    assert set(folder.iterdir()) == before, "the tools write below the folder for voices"


@lru_cache(maxsize=1)
def _tiny_recognizer() -> Any:
    import tempfile

    from factories_voices import voice_model

    from emodistill import Recognizer

    return Recognizer(voice_model(Path(tempfile.mkdtemp(prefix="emodistill-fuzz-")) / "model"), threads=1)


def _mcp_seeds() -> Iterable[bytes]:
    yield b'predict\n{"path": "clip.wav", "voice": "a.voice.json"}'
    yield b'timeline\n{"path": "clip.wav", "split_channels": true, "start_s": 0.5, "trend_s": 2}'
    yield b'enrol\n{"paths": ["clip.wav"], "output": "a.voice.json", "replace": true}'


def _texts(*texts: str) -> Callable[[], Iterable[bytes]]:
    return lambda: [text.encode() for text in texts]


CORPORA = {  # the readers of one corpus with tables of their own -> a text file of the fake folder
    "iemocap": "*.txt", "meld": "*.csv", "emorynlp": "*.csv", "esd": "*.txt", "shemo": "*.json",
    "emobox": "*.jsonl", "crema_d": "*.csv", "msp_podcast": "*.csv",
}  # fmt: skip
LISTED = (
    Target("audio-bytes", _audio_bytes, _audio_seeds, in_process=False),
    Target("audio-file", _audio_file, _audio_seeds, in_process=False),
    Target("audio-whole", _audio_whole, _audio_seeds, in_process=False),
    Target("audio-stream", _audio_stream, _audio_seeds, in_process=False),
    Target("wav-header", _wav_header, _wav_header_seeds),
    Target("manifest-csv", _manifest(".csv"), _texts(ROWS, ROWS.replace(",", ";"))),
    Target("manifest-parquet", _manifest(".parquet"), _parquet_seeds),
    Target("kaldi", _kaldi, _kaldi_seeds),
    Target("lhotse", _lhotse, _lhotse_seeds),
    Target("audformat", _audformat, _audformat_seeds),
    Target(
        "audiofolder-csv",
        _audiofolder(".csv"),
        _texts("file_name,label,speaker_id\nclip.wav,angry,s1\ntrain/b.wav,sad,s2\n"),
    ),
    Target(
        "audiofolder-jsonl",
        _audiofolder(".jsonl"),
        _texts('{"file_name": "clip.wav", "label": "angry", "speaker_id": "s1"}\n'),
    ),
    *(Target(f"corpus-{n}", _corpus(n, text), _corpus_seeds(n, text)) for n, text in CORPORA.items()),
    Target("words", _words, _words_seeds),
    Target("fold-list", _fold_list, _texts("id,fold,split\na,0,train\nb,0,dev\nc,0,test\nd,0,-\n",
                                           "id,fold\na,0\nb,1\nc,1\nd,-\n")),
    Target("input-list", _input_list, _input_list_seeds),
    Target("recipe", _recipe, _recipe_seeds),
    Target("defaults", _defaults, _texts('threads = 2\n[predict]\nformat = "csv"\nchannels = "split"\n')),
    Target("segments", _segments, _segments_seeds),
    Target("resumed-rows", _resumed_rows, _resumed_rows_seeds),
    Target("card", _card, lambda: [_model_parts()[0]]),
    Target("graph", _graph, lambda: [_model_parts()[1]], in_process=False),
    Target("description", _description, _description_seeds),
    Target("voice", _voice, _voice_seeds),
    Target("safetensors", _safetensors, _safetensors_seeds),
    Target("checkpoint", _checkpoint, lambda: [_checkpoint_parts()[0]]),
    Target("weights", _weights, lambda: [_checkpoint_parts()[1]]),
    Target("array", _array, _array_seeds, allowed=(EmodistillError, OSError)),
    Target("pretrained-config", _pretrained_config,
           _texts('{"model_type": "wavlm", "architectures": ["WavLMModel"], "hidden_size": 16}')),
    Target("predictions", _predictions, _texts(PREDICTIONS)),
    Target("dimensions", _dimensions, _dimensions_seeds),
    Target("known", _known, _texts(KNOWN)),
    Target("protocol", _protocol, lambda: [_protocol_text()]),
    Target("run-folder", _run_folder, _run_folder_seeds),
    Target("ablation", _ablation, _texts(ABLATION)),
    Target("fit-result", _fit_result, _texts('{"epochs": 2, "dev_ua": 0.5, "history": [{"epoch": 1.0}]}')),
    Target("targets", _targets, _targets_seeds),
    Target("http", _http, _http_seeds, in_process=False),
    Target("stream", _stream, _stream_seeds, in_process=False),
    Target("mcp", _mcp, _mcp_seeds),
)  # fmt: skip
TARGETS = {target.name: target for target in LISTED}
