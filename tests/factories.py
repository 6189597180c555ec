"""Small objects for tests: speech-like sounds, a fake corpus, tiny pretrained models, a short recipe."""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from emodistill.inference.confidence import Answer
from emodistill.inference.window_classifier import WindowOutput

RATE = 16_000  # Hz
# The folder of real corpora and models, which may not exist: EMODISTILL_DATA, or `shared` beside the
# checkout.
DATA = Path(os.environ.get("EMODISTILL_DATA", Path(__file__).parents[2] / "shared"))
EMOTIONS = ("angry", "sad")
WORDS = {
    "angry": ("stop that now", "no never again", "get out of here"),
    "sad": ("i miss her so", "it is all gone", "nobody came today"),
    "happy": ("what a lovely day", "we won the game", "she said yes"),
    "neutral": ("the train is here", "put it on the table", "it is ten o'clock"),
}


class CommandResult(NamedTuple):
    """What a command line gave: its exit code, its standard output and its standard error."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., CommandResult]  # runs a command line
_F0_HZ = {"angry": 220.0, "sad": 110.0, "happy": 180.0, "neutral": 140.0}


def speech(length_s: float = 0.5, f0_hz: float = 150.0, seed: int = 0, rate_hz: int = RATE) -> np.ndarray:
    """Return a speech-like sound: harmonics of a gliding F0 with syllables and noise, peak 0.5."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(length_s * rate_hz)) / rate_hz
    glide = 1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time + rng.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(f0_hz * glide) / rate_hz
    voice = sum(np.sin(k * phase + rng.uniform(0, 6)) / k ** rng.uniform(0.8, 1.4) for k in range(1, 12))
    syllables = 0.3 + np.abs(np.sin(2 * np.pi * rng.uniform(2, 4) * time + rng.uniform(0, 3)))
    out = voice * syllables + 0.02 * rng.standard_normal(len(time))
    return (0.5 * out / np.abs(out).max()).astype(np.float32)


def corpus_folder(
    folder: Path,
    speakers: int = 6,
    emotions: Sequence[str] = EMOTIONS,
    each: int = 3,
    silent_words: int = 5,
    seed: int = 0,
) -> Path:
    """Write WAV files and their manifest; returns its path.

    Every `silent_words`-th utterance has no transcript.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for speaker in range(speakers):
        for emotion in emotions:
            for take in range(each):
                number = len(rows)
                name = f"s{speaker}_{emotion}_{take}"
                pitch = _F0_HZ[emotion] * (1 + 0.04 * speaker)
                sound = speech(0.3 + 0.06 * (number % 6), pitch, seed=seed + number)
                soundfile.write(folder / f"{name}.wav", sound, RATE)
                words = WORDS[emotion][take % 3] if number % silent_words else ""
                rows.append(
                    {"id": name, "path": f"{name}.wav", "speaker": f"s{speaker}", "emotion": emotion,
                     "session": f"S{speaker // 2}", "transcript": words}
                )  # fmt: skip
    return write_rows(folder / "utterances.csv", rows)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as CSV; returns the path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- recipes -------------------------------------------------------------------------------------

OPTIM = {"epochs": 2, "batch_size": 8, "lr": 3e-3}


def recipe_data(manifest: Path, **sections: Any) -> dict[str, Any]:
    """Return a short recipe over a manifest as plain data, updated with `sections` (two levels deep)."""
    data: dict[str, Any] = {
        "name": "tiny",
        "corpus": {"name": "fake", "manifest": str(manifest)},
        "protocol": {"kind": "k-fold", "folds": 3, "refit": True},
        "augment": {"views": 2, "noise_snr_db": [10.0, 30.0]},
        "prosodic": {"width": 8, "embedding_dim": 8, "optim": OPTIM},
        "linguistic": {"encoder": "scratch", "embedding_dim": 8, "optim": OPTIM},
        "student": {"backbone": "compact", "layers": 1, "width": 16, "embedding_dim": 16, "optim": OPTIM},
        "runtime": {"accelerator": "cpu", "devices": 1, "threads": 1, "workers": 1},
    }
    for name, value in sections.items():
        if isinstance(value, dict) and isinstance(data.get(name), dict):
            data[name] = {**data[name], **value}
        else:
            data[name] = value
    return data


def recipe(manifest: Path, **sections: Any) -> Any:
    """Return the same as a `Recipe`."""
    from emodistill.config import parse_recipe

    return parse_recipe(recipe_data(manifest, **sections))


def voice_recipe(manifest: Path, **sections: Any) -> Any:
    """Return a short recipe of a compact student with voices and a prosodic teacher."""
    voice = {
        "protocol": {"refit": "classifier"},
        "distillation": {"teachers": ["prosodic"]},
        "voice": {"utterances_per_speaker": 4},
    }
    return recipe(manifest, **{**voice, **sections})


# --- tiny pretrained models ----------------------------------------------------------------------

_SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip
_SPEECH = {
    **_SMALL, "conv_dim": (16,) * 7, "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


def with_random_weights(model: Any, seed: int = 0) -> Any:
    """Set random weights in place, large enough that outputs depend on the input; returns the model.

    With their initial weights, outputs hardly depend on it.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "positions" not in name:
                spread = (value[0].numel()) ** -0.5
                value.copy_(spread * torch.randn(value.shape, generator=generator))
            elif value.ndim == 1:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model.eval()


def _save(model: Any, folder: Path) -> Path:
    with_random_weights(model).save_pretrained(folder)
    return folder


def whisper_encoder() -> Any:
    """Return a Whisper encoder of two layers and width 32, for 30 s."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    shape = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=48, num_mel_bins=80, vocab_size=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    return WhisperEncoder(shape)


def hubert(norm: str = "group") -> Any:
    """Return a tiny HuBERT, with the norms of base (`group`) or large (`layer`)."""
    from transformers import HubertConfig, HubertModel

    stable = norm == "layer"
    return HubertModel(
        HubertConfig(**_SPEECH, feat_extract_norm=norm, do_stable_layer_norm=stable, conv_bias=stable)
    )


def wav2vec2() -> Any:
    """Return a tiny wav2vec 2.0, with the norms of base."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    return Wav2Vec2Model(Wav2Vec2Config(**_SPEECH, feat_extract_norm="group"))


def wavlm(norm: str = "group") -> Any:
    """Return a tiny WavLM, with the norms of base (`group`) or large (`layer`)."""
    from transformers import WavLMConfig, WavLMModel

    stable = norm == "layer"
    return WavLMModel(
        WavLMConfig(
            **_SPEECH, feat_extract_norm=norm, do_stable_layer_norm=stable, conv_bias=stable,
            num_buckets=32, max_bucket_distance=80,
        )
    )  # fmt: skip


def data2vec() -> Any:
    """Return a tiny data2vec audio model."""
    from transformers import Data2VecAudioConfig, Data2VecAudioModel

    shape = {name: value for name, value in _SPEECH.items() if name != "num_conv_pos_embeddings"}
    return Data2VecAudioModel(Data2VecAudioConfig(**shape, num_conv_pos_embeddings=3, conv_pos_kernel_size=7))


def _bert(folder: Path) -> Path:
    """Save a BERT of two layers with a word-level tokenizer over the words of the fake corpus."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({word for lines in WORDS.values() for line in lines for word in line.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    fast.save_pretrained(folder)
    return _save(BertModel(BertConfig(**_SMALL, vocab_size=len(vocabulary))), folder)


PRETRAINED: dict[str, Callable[[Path], Path]] = {
    "whisper": lambda folder: _save(whisper_encoder(), folder),
    "hubert": lambda folder: _save(hubert(), folder),
    "hubert-layer": lambda folder: _save(hubert("layer"), folder),
    "wav2vec2": lambda folder: _save(wav2vec2(), folder),
    "wavlm": lambda folder: _save(wavlm(), folder),
    "data2vec": lambda folder: _save(data2vec(), folder),
    "bert": _bert,
}
SPEECH_MODELS = ("whisper", "hubert", "hubert-layer", "wav2vec2", "wavlm", "data2vec")


# --- a model and data for the training loop -------------------------------------------------------


def student(backbone: Any, **config: Any) -> Any:
    """Return a student with random weights over a backbone: four emotions, heads for two teachers."""
    import torch

    from emodistill.config import StudentConfig
    from emodistill.models.student import Student

    with torch.random.fork_rng(devices=[]):  # the weights do not depend on earlier tests
        torch.manual_seed(0)
        model = Student(
            backbone, StudentConfig(**{"backbone": "x", "embedding_dim": 16, **config}), 4,
            {"prosodic": 8, "linguistic": 6},
        )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    if not model.config.attentive:
        return model.eval()
    with torch.no_grad():  # initial pooling weights all frames alike
        last = model.pool.score[-1]
        last.weight.copy_(torch.randn(last.weight.shape, generator=generator))
    return model.eval()


# --- emotion over time ----------------------------------------------------------------------------

TONES_HZ = {"angry": 1500.0, "happy": 900.0, "sad": 300.0, "neutral": 600.0}


def tone(emotion: str, length_s: float, rate_hz: int = RATE) -> np.ndarray:
    """Return the tone (samples,) that `ToneRecognizer` recognises as an emotion."""
    time = np.arange(round(length_s * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * TONES_HZ[emotion] * time)).astype(np.float32)


def silence(length_s: float, rate_hz: int = RATE) -> np.ndarray:
    """Return silence (samples,)."""
    return np.zeros(round(length_s * rate_hz), dtype=np.float32)


class ToneRecognizer:
    """A recogniser without a model: the probability of an emotion grows with its tone in the waveform."""

    def __init__(self, min_confidence: float = 0.0) -> None:
        self.emotions = tuple(TONES_HZ)
        self.dimensions: tuple[str, ...] = ()
        self._min_confidence = min_confidence
        self.longest = 0  # the longest waveform of a call, in samples
        self.calls = 0

    def probabilities(self, waveform: np.ndarray) -> np.ndarray:
        """Return the probabilities (emotions,) of a waveform (samples,)."""
        assert waveform.dtype == np.float32
        self.longest, self.calls = max(self.longest, len(waveform)), self.calls + 1
        time = np.arange(len(waveform)) / RATE
        shares = np.array(
            [abs(np.mean(waveform * np.exp(-2j * np.pi * hz * time))) for hz in TONES_HZ.values()]
        )
        values = shares + 0.02
        return np.asarray(values / values.sum(), dtype=np.float64)

    def classify(self, waveform: np.ndarray) -> WindowOutput:
        """Return the same probabilities as what a model predicts."""
        return WindowOutput(self.probabilities(waveform))

    def answer(
        self,
        probabilities: Mapping[str, float],
        has_voice: bool,
        emotion: str | None = None,
        learned: bool = False,
        dimensions: Mapping[str, float] | None = None,
    ) -> Answer:
        """Return the chosen emotion, or the most probable one."""
        return Answer.of(probabilities, self._min_confidence, emotion=emotion, from_head=dimensions)


class LoudnessDetector:
    """A speech detector without a model: a frame is speech if it, or one of the next two, has a high RMS."""

    def stream(self) -> "LoudnessStream":
        """Return a new stream."""
        return LoudnessStream()


class LoudnessStream:
    """Speech in frames of 320 samples. A frame is decided when the two frames after it are there."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, dtype=np.float32)

    def push(self, waveform: np.ndarray) -> np.ndarray:
        """Return the values (frames,) of the frames that are now decided."""
        self._rest = np.concatenate([self._rest, waveform])
        num = max(0, len(self._rest) // 320 - 2)
        values = self._frames(self._rest[: (num + 2) * 320])[:num] if num else np.zeros(0, dtype=np.float32)
        self._rest = self._rest[num * 320 :]
        return values

    def finish(self) -> np.ndarray:
        """Return the values of the remaining frames."""
        num = -(-len(self._rest) // 320)
        padded = np.pad(self._rest, (0, (num + 2) * 320 - len(self._rest)))
        return self._frames(padded)[:num]

    @staticmethod
    def _frames(waveform: np.ndarray) -> np.ndarray:
        rms = np.sqrt(np.mean(waveform.reshape(-1, 320) ** 2, axis=1))
        ahead = np.concatenate([rms[2:], np.zeros(2)])
        return np.where(rms > 0.02, 1.0, np.where(ahead > 0.02, 0.4, 0.0)).astype(np.float32)


def classifier(folder: Path, names: Sequence[str] = ("ang", "sad", "oth")) -> Path:
    """Save a tiny audio classifier of transformers in a folder, with the files that the hub has."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, classifier_proj_size=8,
        num_labels=len(names), id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    with_random_weights(Wav2Vec2ForSequenceClassification(config)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder
