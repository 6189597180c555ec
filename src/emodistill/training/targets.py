"""The targets of a student: a teacher's outputs for the training utterances.

They are computed once and kept on disk as `targets-<method>.safetensors`. The method is one of two:

* in-sample: the teacher of the fold, which has learned from these utterances;
* out-of-fold: logits and dimensions are those of teachers that were trained without the utterance's
  speaker.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.config import AudioConfig, AugmentConfig, Recipe, VoiceConfig
from emodistill.console import progress, say
from emodistill.corpora import Utterance, Word
from emodistill.distillation import student_heads
from emodistill.errors import ConfigError, ModelError
from emodistill.features.preparation import prepare_waveform, prepared_spans
from emodistill.files import atomic_write
from emodistill.labels import LabelSet
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.protocol.audit import sentence_key
from emodistill.training.data import view_of
from emodistill.training.stages import SpeechStage
from emodistill.training.voices import crop, crop_span


@dataclass(frozen=True)
class TeacherTargets:
    """A teacher's outputs for the training utterances, in the order of `ids`."""

    ids: tuple[str, ...]
    logits: Tensor  # (utterances, emotions)
    embedding: Tensor  # (utterances, dim)
    available: Tensor  # (utterances,), False: the teacher lacks its input, such as a transcript
    hidden: Tensor | None = None  # (all frames of all views, width), float16, standardised
    offsets: Tensor | None = None  # (utterances, views, 2): where an utterance's frames start and end
    word_vectors: Tensor | None = None  # (all words, dim), float16, standardised
    word_spans: Tensor | None = None  # (all words, 2), start and end as shares of the utterance's length
    word_offsets: Tensor | None = None  # (utterances, 2): where an utterance's words start and end
    dimensions: Tensor | None = None  # (utterances, dimensions), predictions; None: the teacher has none

    def certainty(self, kind: str | None, labels: Sequence[int | None]) -> Tensor | None:
        """Return how much each utterance counts, (utterances,); None: all count 1.

        It weighs this teacher's terms of logits, of embeddings and of their contrast.

            certain            c_i = 1 − H(p_i) / log K,   p_i = softmax(z_i) over K emotions
            certain-and-right  c_i as above where argmax p_i is the label, or there is no label; else 0

        H is the entropy in nats. `labels` are those of the utterances; None: it has none.
        """
        if kind is None:
            return None
        log = self.logits.log_softmax(dim=1)
        certainty = (1 + (log.exp() * log).sum(dim=1) / math.log(log.shape[1])).clamp(0, 1)
        if kind == "certain-and-right":
            predicted = self.logits.argmax(dim=1).tolist()
            is_right = [label is None or label == own for label, own in zip(labels, predicted, strict=True)]
            certainty = certainty * torch.tensor(is_right)
        return certainty

    def write(self, path: Path, teacher: str, method: str) -> None:
        """Write the targets; `method` is "in-sample" or "out-of-fold"."""
        tensors = {"logits": self.logits, "embedding": self.embedding, "available": self.available.byte()}
        optional = {
            name: getattr(self, name)
            for name in (
                "hidden",
                "offsets",
                "word_vectors",
                "word_spans",
                "word_offsets",
                "dimensions",
            )
        }
        tensors |= {name: value for name, value in optional.items() if value is not None}
        metadata = {"teacher": teacher, "method": method, "ids": json.dumps(self.ids)}
        with atomic_write(path) as partial:
            save_file(tensors, partial, metadata=metadata)

    @classmethod
    def read(cls, path: Path, expected_ids: Sequence[str]) -> "TeacherTargets":
        """Read targets; raises `ModelError` where they are damaged, or those of other utterances."""
        try:
            with safe_open(path, framework="pt") as file:
                ids = tuple(json.loads(file.metadata()["ids"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
            unknown = tensors.keys() - cls.__dataclass_fields__.keys()
            if unknown or not {"logits", "embedding", "available"} <= tensors.keys():
                raise ValueError(f"it has {sorted(tensors)}")
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(
                f"'{path}' holds no targets ({error}): delete it and run the same command again"
            ) from error
        if ids != tuple(expected_ids):
            raise ModelError(
                f"'{path}' holds the targets of {len(ids)} other utterances, expected {len(expected_ids)} of "
                "this fold: delete it and run the same command again"
            )
        return cls(ids, **{**tensors, "available": tensors["available"].bool()})


def heads_for(recipe: Recipe, targets: Mapping[str, TeacherTargets]) -> dict[str, int]:
    """Return the sizes of a student's projection heads for the teachers of a recipe."""
    heads: dict[str, int] = {}
    for name in recipe.distillation.teachers:
        own = targets[name]
        hidden = own.word_vectors if own.hidden is None else own.hidden
        hidden_dim = None if hidden is None else hidden.shape[1]
        heads |= student_heads(recipe.distillation, name, own.embedding.shape[1], hidden_dim)
    return heads


@dataclass(frozen=True)
class TeacherTargetSource:
    """A teacher's targets as the student's dataset reads them.

    Hidden states are those of the view, and of the crop, that the student's input has in the same epoch.
    """

    targets: TeacherTargets
    rows: Sequence[int]  # index in the student's dataset -> row of the targets
    augment: AugmentConfig
    seed: int
    voice: VoiceConfig | None = None  # its crops
    certainty: Tensor | None = None  # (rows of the targets,), see `TeacherTargets.certainty`

    def __call__(self, index: int, epoch: int) -> dict[str, Tensor]:
        targets, row = self.targets, self.rows[index]
        values = {
            "logits": targets.logits[row],
            "embedding": targets.embedding[row],
            "available": targets.available[row],
        }
        if targets.hidden is not None and targets.offsets is not None:
            view = view_of(self.augment, self.seed, epoch, targets.ids[row])
            start, end = targets.offsets[row, view].tolist()
            span = crop_span(self.voice, self.seed, epoch, targets.ids[row], (end - start) / HIDDEN_HZ)
            values["hidden"] = crop(targets.hidden[start:end], span).float()
        if self.certainty is not None:
            values["certainty"] = self.certainty[row]
        if targets.dimensions is not None:
            values["dimensions"] = targets.dimensions[row]
        if targets.word_vectors is not None:
            assert targets.word_spans is not None
            assert targets.word_offsets is not None
            first, last = targets.word_offsets[row].tolist()
            values["word_vectors"] = targets.word_vectors[first:last].float()
            values["word_spans"] = targets.word_spans[first:last]
        return values


def target_source(
    targets: TeacherTargets,
    train: Sequence[Utterance],
    emotions: Mapping[str, str | None],
    labels: LabelSet,
    recipe: Recipe,
    seed: int,
    voice: VoiceConfig | None,
) -> TeacherTargetSource:
    """The targets of one teacher as the student's dataset of the utterances `train` reads them.

    `emotions` maps all ids of the targets to an emotion, or to None without a label.
    """
    known = [emotions[name] for name in targets.ids]
    indices = [None if emotion is None or not len(labels) else labels.index(emotion) for emotion in known]
    certainty = targets.certainty(recipe.distillation.certainty, indices)
    row_of = {name: row for row, name in enumerate(targets.ids)}
    rows = [row_of[utterance.id] for utterance in train]
    return TeacherTargetSource(targets, rows, recipe.augment, seed, voice, certainty)


def usable_further(further: Sequence[Utterance], held_out: Sequence[Utterance]) -> tuple[Utterance, ...]:
    """The further speech without the speakers and the sentences of held-out utterances.

    Otherwise the student would know held-out voices or sentences.
    """
    speakers = {utterance.speaker for utterance in held_out}
    sentences = {sentence_key(utterance.transcript) for utterance in held_out if utterance.transcript}
    return tuple(
        utterance
        for utterance in further
        if utterance.speaker not in speakers and sentence_key(utterance.transcript or "") not in sentences
    )


def align_to_ids(
    ids: Sequence[str], output_ids: Sequence[str], outputs: Mapping[str, Tensor]
) -> TeacherTargets:
    """Expands a teacher's outputs for `output_ids` to all ids; missing rows are zero and unavailable."""
    position = {utterance_id: row for row, utterance_id in enumerate(ids)}
    rows = torch.tensor([position[utterance_id] for utterance_id in output_ids], dtype=torch.long)
    available = torch.zeros(len(ids), dtype=torch.bool)
    available[rows] = True

    def expand(values: Tensor) -> Tensor:
        expanded = torch.zeros(len(ids), values.shape[1])
        expanded[rows] = values
        return expanded

    return TeacherTargets(
        tuple(ids), expand(outputs["logits"]), expand(outputs["embedding"]), available,
        dimensions=expand(outputs["dimensions"]) if "dimensions" in outputs else None,
    )  # fmt: skip


# --- words ---------------------------------------------------------------------------------------


@torch.no_grad()
def with_words(
    targets: TeacherTargets, model: LinguisticTeacher, utterances: Sequence[Utterance], audio: AudioConfig
) -> TeacherTargets:
    """Return the same targets with the text encoder's vector of each word that has frames.

    A word has none where it lasts no time, or where its part of the recording is cut before training. Each
    dimension is standardised over all words, as in `pack_hidden`. Raises `ConfigError` where no word is left.
    """
    by_id = {utterance.id: utterance for utterance in utterances}
    vectors, spans, counts = [], [], []
    bar, task = progress("vectors of words", len(targets.ids))
    with bar:
        for name in targets.ids:
            utterance = by_id.get(name)
            count = 0
            if utterance is not None and utterance.words and utterance.path is not None:
                shares = word_shares(utterance.words, prepared_spans(utterance, audio))
                found = model.word_vectors([word.text for word in utterance.words])
                kept = [index for index, (start, end) in enumerate(shares) if end > start and index in found]
                vectors += [found[index] for index in kept]
                spans += [shares[index] for index in kept]
                count = len(kept)
            counts.append(count)
            bar.advance(task)
    if not spans:
        raise ConfigError(
            "the word level needs the times of words, and no training utterance has any: set corpus.words, "
            "or set distillation.words and distillation.word_contrast to 0"
        )
    num_words = sum(len(utterance.words) for utterance in utterances)
    say(
        f"word level: {len(spans)} of {num_words} words have frames, in {sum(map(bool, counts))} of "
        f"{len(utterances)} utterances"
    )
    x = torch.stack(vectors)
    ends = torch.tensor(counts).cumsum(0)
    offsets = torch.stack([ends - torch.tensor(counts), ends], dim=1)
    x = (x - x.mean(dim=0)) / (x.std(dim=0, correction=0) + 1e-6)
    return replace(targets, word_vectors=x.half(), word_spans=torch.tensor(spans), word_offsets=offsets)


def word_shares(words: Sequence[Word], kept: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Return where each word is in the prepared waveform: start and end as shares of its length.

    `kept` are the spans of samples of the recording of which the prepared waveform consists. A word outside
    them has an end equal to its start.
    """
    total = sum(end - start for start, end in kept)

    def share(seconds: float) -> float:
        sample = seconds * SAMPLE_RATE
        return sum(min(max(sample - start, 0.0), end - start) for start, end in kept) / total

    return [(share(word.start_s), share(word.end_s)) for word in words]


# --- hidden states -------------------------------------------------------------------------------

HIDDEN_HZ = 25  # frames a second that hidden states are averaged down to


@torch.no_grad()
def with_hidden_states(
    targets: TeacherTargets, stage: SpeechStage, model: nn.Module, train: Sequence[Utterance]
) -> TeacherTargets:
    """The same targets with the acoustic teacher's hidden states for every view of the student's inputs."""
    augment = stage.recipe.augment
    assert augment.views, "the checks before training refuse views that are not fixed"
    student_views = SpeechStage(stage.name, stage.recipe, stage.labels, stage.config, augment, {})
    spoken = [utterance for utterance in train if stage.can_use(utterance)]
    source = student_views.source(model, spoken, 0)
    teacher = stage.trained_part(model).eval()
    states_by_id: dict[str, list[Tensor]] = {}
    bar, task = progress("hidden states", len(spoken))
    with bar:
        for index, utterance in enumerate(spoken):
            length_s = len(prepare_waveform(utterance, stage.recipe.audio)) / SAMPLE_RATE
            states = [
                teacher(source.at_view(index, view)[None], None).hidden[0] for view in range(augment.views)
            ]
            states_by_id[utterance.id] = [downsample(item, length_s).half() for item in states]
            bar.advance(task)
    no_frames = next(iter(states_by_id.values()))[0][:0]  # for an utterance without audio
    hidden, offsets = pack_hidden(
        [states_by_id.get(name, [no_frames] * augment.views) for name in targets.ids]
    )
    return replace(targets, hidden=hidden, offsets=offsets)


def downsample(states: Tensor, length_s: float) -> Tensor:
    """Average hidden states (frames, width) of an utterance of `length_s` down to about `HIDDEN_HZ`."""
    ratio = max(1, round(len(states) / length_s / HIDDEN_HZ))
    if ratio == 1 or len(states) < ratio:
        return states
    return F.avg_pool1d(states.T[None], ratio)[0].T


def pack_hidden(states: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Concatenate hidden states [utterance][view] (frames, width); returns them and the offsets of each.

    Each dimension is standardised over all frames. Without it a few dimensions of a transformer's states,
    which are very large, would alone decide the cosine.
    """
    parts = [item for views in states for item in views]
    frames = torch.cat(parts)
    mean = frames.mean(dim=0, dtype=torch.float32)
    std = torch.stack([column.float().std() for column in frames.T])
    ends = torch.tensor([len(item) for item in parts]).cumsum(0)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])
    offsets = torch.stack([starts, ends], dim=1).reshape(len(states), -1, 2)
    for block in frames.split(2**16):  # in place, since all frames together may be many GB
        block.copy_((block - mean) / (std + 1e-6))
    return frames.half(), offsets
