"""The sections of a recipe about models: optimisation, teachers, student and distillation.

The comment above each field is its reference; the value in the code is its default. A field is set in a TOML
file or by `--set`, for example `student.optim.epochs=3`. `none` stands for None.
"""

from typing import Literal

from pydantic import Field, model_validator

from emodistill.config.data_sections import AugmentConfig, Section

TEACHERS = ("prosodic", "linguistic", "acoustic")
WORDS = "words"  # the student's training on words, before its own: a stage, its folder and its epochs
Teacher = Literal["prosodic", "linguistic", "acoustic"]


class OptimConfig(Section):
    """One training. The learning rate rises linearly during warm-up and then falls along a cosine to 0."""

    # muon: Muon for the matrices of linear layers and AdamW for all other weights.
    optimizer: Literal["adamw", "muon"] = "adamw"
    # Epochs of the schedule.
    epochs: int = Field(20, ge=1)
    # Utterances in a batch, over all devices together.
    batch_size: int = Field(32, ge=1)
    # Highest learning rate.
    lr: float = Field(1e-3, gt=0)
    # Highest learning rate of pretrained layers, except of their adapters (student.lora). None: `lr`.
    backbone_lr: float | None = None
    # Decoupled weight decay. Biases and norms have none.
    weight_decay: float = Field(1e-2, ge=0)
    # Share of all steps that is warm-up.
    warmup: float = Field(0.1, ge=0, lt=1)
    # Largest norm of the gradient; a larger gradient is scaled down to it.
    clip: float = Field(1.0, gt=0)
    # Batches whose gradients make one step.
    accumulate: int = Field(1, ge=1)
    # Sort utterances by length within groups of this many batches. More means less padding, but batches with
    # less variety of lengths. 1: do not sort.
    bucket: int = Field(1, ge=1)
    # What the emotions are learned from. label: one emotion an utterance. votes: the distribution of the
    # listeners' votes; the label where an utterance has none. Utterances with votes alone are in training.
    targets: Literal["label", "votes"] = "label"
    # Loss of votes. cross-entropy: with the distribution. kl: the Kullback-Leibler divergence from it, which
    # has the same gradient and is 0 for a perfect model.
    vote_loss: Literal["cross-entropy", "kl"] = "cross-entropy"
    # Loss of dimensions. ccc: 1 − the concordance correlation over the batch (Lin 1989). mse: squared error.
    dimension_loss: Literal["ccc", "mse"] = "ccc"
    # Label smoothing ε: the target is (1 − ε) one-hot + ε / number of emotions.
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    # Weight emotions by inverse frequency in the hard-label loss. With votes, frequencies are those of votes,
    # and predictions are no longer calibrated against the votes.
    class_weights: bool = True
    # x in utterance weight = corpus_size ** -x, in the hard-label loss of pooled corpora. x = 1 weighs
    # corpora equally; x = 0 weighs utterances equally.
    corpus_weights: float = Field(0.0, ge=0, le=1)
    # Set two stretches of each training input to zero. Each has up to this share of the input's length.
    time_mask: float = Field(0.0, ge=0, lt=1)
    # a of mixup, which draws one λ ≥ ½ per batch from Beta(a, a) and uses it for inputs and all loss terms.
    # 0: no mixup.
    mixup: float = Field(0.0, ge=0, le=100)
    # Decay of an exponential moving average of the weights. The average is then the model. 0: off.
    ema: float = Field(0.0, ge=0, lt=1)
    # Which epoch is kept: the best on dev, or the last one.
    select: Literal["best", "last"] = "best"
    # Score on dev that chooses the best epoch. ua: mean recall per class. weighted_f1: as in papers on MELD.
    # ccc: mean concordance correlation of the dimensions. Where targets has no emotion, it is always ccc.
    measure: Literal["ua", "weighted_f1", "ccc"] = "ua"
    # Stop after this many epochs without a better score. None: train all epochs.
    patience: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "OptimConfig":
        if self.patience is not None and self.select == "last":
            raise ValueError("patience waits for a better epoch: it needs select = 'best'")
        if 0 < self.mixup < 0.01:
            raise ValueError(f"mixup = {self.mixup:g} has almost no effect: expected 0, or 0.01 and more")
        return self


def _require_no_mask_or_mixup(optim: OptimConfig, reason: str) -> None:
    """Raise `ValueError` where a teacher without a waveform has a setting that needs one."""
    if optim.time_mask or optim.mixup:
        raise ValueError(f"{reason}: set optim.time_mask and optim.mixup to 0")


class ProsodicConfig(Section):
    """The prosodic teacher: a 2-D ResNet over LLDs and time. Its augmentation works on normalised LLDs."""

    # Channels. The last block has 3/2 of them.
    width: int = Field(64, ge=8)
    # Size of the embedding that the student learns to match.
    embedding_dim: int = Field(128, ge=2)
    # Probability of dropout.
    dropout: float = Field(0.3, ge=0, lt=1)
    # Stretch time by a factor between 1 - stretch and 1 / (1 - stretch).
    stretch: float = Field(0.2, ge=0, lt=1)
    # Cut off up to this share of the frames.
    crop: float = Field(0.2, ge=0, lt=1)
    # Standard deviation of noise that differs from frame to frame, in standard deviations of an LLD.
    noise: float = Field(0.1, ge=0)
    # Standard deviation of noise that is constant over an utterance, in the same unit.
    offset: float = Field(0.3, ge=0)
    # Masks over time. Each covers up to 15 % of the frames.
    time_masks: int = Field(2, ge=0)
    # Largest number of masked LLDs, out of 25.
    lld_masks: int = Field(3, ge=0, le=25)
    # Checkpoint folder to start from. The audit includes its training ids. None: start from random weights.
    init: str | None = None
    optim: OptimConfig = OptimConfig(
        epochs=24, batch_size=32, lr=3e-3, weight_decay=0.05, warmup=0.15, clip=5.0,
        label_smoothing=0.1, class_weights=False, select="last",
    )  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> "ProsodicConfig":
        _require_no_mask_or_mixup(
            self.optim,
            "the prosodic teacher has its own masks, prosodic.time_masks and lld_masks, and no mixup",
        )
        return self


class LinguisticConfig(Section):
    """The linguistic teacher: a text encoder of Hugging Face transformers, pooling and a classifier."""

    # Hub id, folder, or "scratch": a small encoder trained from nothing on the words of the training split.
    encoder: str = "bert-base-uncased"
    # Size of the embedding that the student learns to match.
    embedding_dim: int = Field(128, ge=2)
    # Probability of dropout.
    dropout: float = Field(0.1, ge=0, lt=1)
    # Longer transcripts are cut to this many tokens.
    max_tokens: int = Field(128, ge=4)
    # Number of encoder layers, from the first, that are not trained; then neither are the token embeddings.
    # 0: train all of it.
    frozen: int = Field(0, ge=0)
    # Checkpoint folder to start from. The audit includes its training ids. None: start from `encoder`.
    init: str | None = None
    optim: OptimConfig = OptimConfig(epochs=4, batch_size=16, lr=1e-3, backbone_lr=2e-5)

    @model_validator(mode="after")
    def _check(self) -> "LinguisticConfig":
        _require_no_mask_or_mixup(self.optim, "words cannot be masked or mixed")
        return self


class WordsFirstConfig(Section):
    """A training of the student before its own, in which the linguistic teacher alone teaches it.

    The layers above `frozen` learn that teacher's terms, such as the word level, on the training split and on
    further speech. Labels of emotions reach the student through the teacher alone. Then the student's own
    training follows, from these weights, with the labels and the other teachers.
    """

    # Number of layers, from the first, that are not trained here. student.frozen is that of the own training.
    frozen: int = Field(0, ge=0)
    optim: OptimConfig = OptimConfig()


class StudentConfig(Section):
    """The student: a speech backbone, statistics pooling, a classifier, and a projection head per teacher."""

    # Hub id, folder, or "compact": a small backbone trained from nothing.
    backbone: str = "facebook/hubert-base-ls960"
    # Number of layers of the backbone, from the first, that are used. None: all.
    layers: int | None = Field(None, ge=1)
    # Number of consecutive frames that are averaged into one before the first layer. 2 halves the cost of the
    # layers.
    merge: int = Field(1, ge=1)
    # Layers whose states are pooled and concatenated; 0 is the input of the first layer. "last": the last
    # layer. "mix": a learned weighted sum of all layers.
    pool: tuple[int, ...] | Literal["last", "mix"] = "last"
    # Learn a weight for each frame. false: plain means and standard deviations over time.
    attentive: bool = True
    # Number of layers, from the first, that are not trained. Their states are computed once and cached.
    # 0: train all.
    frozen: int = Field(0, ge=0)
    # Rank of the low-rank adapters (LoRA) that are trained in place of the layers above `frozen`, such as 8.
    # They learn at optim.lr, and they are merged into the layers at the end. 0: train the layers in full. It
    # needs pip install 'emodistill[lora]'.
    lora: int = Field(0, ge=0)
    # Width of the compact backbone. Others have their own.
    width: int = Field(192, ge=8)
    # Size of the student's embedding.
    embedding_dim: int = Field(256, ge=2)
    # Probability of dropout.
    dropout: float = Field(0.2, ge=0, lt=1)
    # In training, multiply the frequencies of a log-mel spectrogram by a factor in 1 ± warp.
    warp: float = Field(0.0, ge=0, lt=0.5)
    # In training, set two groups of mel bands to zero. Each has up to this share of the bands.
    band_mask: float = Field(0.0, ge=0, lt=1)
    # Number of learned queries that attend over the frames of the last pooled layer. Their result is added to
    # the embedding, beside the pooled statistics. 0: none.
    queries: int = Field(0, ge=0, le=64)
    # Put a GELU between embedding and classifier.
    nonlinear: bool = False
    # true: standardise pooled statistics by means and deviations of the training split, which do not change
    # in training. false: use a layer norm. None: true where layers are frozen and `pool` is not "mix".
    standardise: bool | None = None
    # With protocol.refit = "classifier": weight of the squared distance to the classifier's earlier weights.
    pull: float = Field(1e-3, gt=0)
    # Start the classifier from a linear discriminant analysis of frozen states, with this shrinkage. None:
    # start from random weights.
    probe: float | None = Field(None, ge=0, le=1)
    # Model to start from, whose shape the student keeps: "bundled", an exported model or a checkpoint folder.
    # The audit includes its training ids.
    init: str | None = None
    # A training on the terms of the linguistic teacher alone, before the student's own training. None: there
    # is one training, in which all teachers teach.
    words_first: WordsFirstConfig | None = None
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="after")
    def _check(self) -> "StudentConfig":
        if self.words_first is not None:
            self._check_words_first(self.words_first.frozen)
        if self.layers is not None and self.frozen > self.layers:
            raise ValueError(f"frozen = {self.frozen} is more than layers = {self.layers}")
        if self.probe is not None and not self.frozen:
            raise ValueError("probe needs frozen layers, because it is fitted on their states: set frozen")
        if self.probe is not None and self.nonlinear:
            raise ValueError("a probe is linear: set nonlinear = false, or leave the probe out")
        if self.probe is not None and self.init is not None:
            raise ValueError("probe and init are two ways to start: give one of them")
        if self.standardise and not self.frozen and self.init is None:
            raise ValueError(
                "standardise = true takes its means from the states of frozen layers: set frozen to 1 or "
                "more, or unset standardise"
            )
        if self.optim.mixup and not self.frozen:
            raise ValueError(
                "mixup mixes states of frozen layers. In a mix of waveforms the louder one would dominate: "
                "set optim.mixup = 0"
            )
        if (self.warp or self.band_mask) and self.frozen:
            raise ValueError(
                "warp and band_mask change the spectrogram, but states of frozen layers are computed without "
                "it: set both to 0, or frozen = 0"
            )
        if self.backbone == "compact" and self.frozen:
            raise ValueError("compact is trained from nothing: frozen must be 0")
        if self.backbone == "compact" and self.lora:
            raise ValueError(
                "compact is trained from nothing, so it has no weights to adapt: set lora = 0, or choose a "
                "pretrained backbone"
            )
        if self.lora and self.frozen == self.layers:
            raise ValueError(
                f"lora adapts the layers above frozen = {self.frozen}, of which layers = {self.layers} "
                "leaves none: lower frozen, or set lora = 0"
            )
        return self

    def _check_words_first(self, frozen: int) -> None:
        """Raise `ValueError` where a first training does not fit; `frozen` is its number of frozen layers."""
        if self.layers is not None and frozen >= self.layers:
            raise ValueError(
                f"words_first.frozen = {frozen} leaves none of layers = {self.layers} to learn words: lower "
                "it"
            )
        if self.backbone == "compact" and frozen:
            raise ValueError("compact is trained from nothing: words_first.frozen must be 0")
        if self.probe is not None:
            raise ValueError("probe and words_first are two ways to start: give one of them")
        if (self.warp or self.band_mask) and frozen:
            raise ValueError(
                "warp and band_mask change the spectrogram, but states of frozen layers are computed without "
                "it: set both to 0, or words_first.frozen = 0"
            )


class AcousticConfig(Section):
    """The acoustic teacher: a larger student, trained inside the fold or taken from an earlier run."""

    # Run folder with the same protocol. Its student of fold k is the teacher in fold k. None: train one.
    run: str | None = None
    student: StudentConfig = StudentConfig()
    # Augmentation of the teacher's own training. None: that of the recipe.
    augment: AugmentConfig | None = None


class DistillationConfig(Section):
    """Which teachers teach the student, and the weight of each term of the loss.

    `emodistill.distillation` has the formulas.
    """

    # Teachers t of the student.
    teachers: tuple[Teacher, ...] = ("prosodic", "linguistic")
    # What to do with a teacher that has no input in a fold, such as a linguistic teacher without transcripts.
    # false: stop before training. true: train without it, and add `-without-linguistic` to the recipe's name.
    allow_missing_teachers: bool = False
    # α, weight of the logit level.
    alpha: float = Field(1.0, ge=0)
    # β, weight of the embedding level.
    beta: float = Field(1.0, ge=0)
    # γ, weight of the hard labels.
    gamma: float = Field(1.0, ge=0)
    # δ, weight of the dimensions against their labels. Without teachers, 0 counts as 1.
    delta: float = Field(1.0, ge=0)
    # Weight of the dimensions against a teacher's predictions of them. The loss is that of the labels,
    # student.optim.dimension_loss.
    dimensions: float = Field(1.0, ge=0)
    # Weight of the frame level: hidden states of the acoustic teacher.
    hidden: float = Field(0.0, ge=0)
    # Weight of the distances between the utterances of a batch (relational distillation).
    relational: float = Field(0.0, ge=0)
    # Weight of the word level: the student's frames of a word against the linguistic teacher's vector of it.
    # It needs corpus.words.
    words: float = Field(0.0, ge=0)
    # Weight of a contrast between the utterances of a batch (InfoNCE), beside the cosine of embeddings.
    contrast: float = Field(0.0, ge=0)
    # Weight of a contrast between the words of a batch (InfoNCE), beside the cosine of words.
    word_contrast: float = Field(0.0, ge=0)
    # Temperature of both contrasts.
    contrast_temperature: float = Field(0.1, gt=0)
    # Weight of a teacher's terms by utterance. certain: 1 − entropy of its probabilities / largest entropy.
    # certain-and-right: the same, and 0 where its most probable emotion is not the label. None: all weigh 1.
    certainty: Literal["certain", "certain-and-right"] | None = None
    # Temperature τ of the logit level.
    temperature: float = Field(2.0, gt=0)
    # w_t, weight of each teacher. A teacher that is not named has 1.
    weights: dict[Teacher, float] = Field({})
    # Distance of L2-normalised embeddings: 1 − cosine, squared difference, or absolute difference.
    distance: Literal["cosine", "mse", "l1"] = "cosine"
    # in-sample: logits of the teacher that trained on the utterance. out-of-fold: logits of a teacher that
    # did not, from `inner_folds` trainings. Embeddings always come from the one teacher, because each
    # training has its own space.
    targets: Literal["in-sample", "out-of-fold"] = "in-sample"
    # Number of trainings for out-of-fold targets.
    inner_folds: int = Field(4, ge=2)

    def weight(self, teacher: str) -> float:
        """Return w_t of a teacher."""
        return {str(name): value for name, value in self.weights.items()}.get(teacher, 1.0)


class VoiceConfig(Section):
    """How the student learns to use what is known about a speaker's voice. The section turns it on.

    In training, an utterance gets a context: the mean of the statistics of other utterances of its speaker,
    without their labels, or nothing. `emodistill.training.voices` has the details.
    """

    # Probability that an utterance has no context.
    none_probability: float = Field(0.3, ge=0, le=1)
    # Probability that an utterance without a context is moved towards another speaker's usual. It needs
    # frozen layers. Speakers with up to max_known utterances are never moved.
    move_probability: float = Field(0.0, ge=0, le=1)
    # Largest number of other utterances in a context, with frozen layers. With a trained trunk it is
    # utterances_per_speaker - 1.
    max_known: int = Field(20, ge=1)
    # Utterances of one speaker in a batch, with a trained trunk.
    utterances_per_speaker: int = Field(8, ge=2)
    # Probability that an utterance is cropped, for itself and for contexts.
    crop_probability: float = Field(0.3, ge=0, le=1)
    # Range of the length of a crop, in seconds. A timeline has windows of 2 s.
    crop_s: tuple[float, float] = (1.0, 3.0)

    @model_validator(mode="after")
    def _check(self) -> "VoiceConfig":
        low, high = self.crop_s
        if not 0 < low <= high:
            raise ValueError(f"crop_s = {list(self.crop_s)}: expected a range of seconds, such as [1.0, 3.0]")
        return self
