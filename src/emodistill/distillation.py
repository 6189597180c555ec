"""The loss of the method: its terms as pure functions, their registry `TERMS`, and their weighted sum.

    L = γ L_hard + δ L_dimensions
        + Σ_t w_t (α L_logit + β L_embedding + contrast L_contrast + relational L_relational
                   + hidden L_hidden + words L_words + word_contrast L_word_contrast
                   + dimensions L_taught_dimensions)

The structure follows Shome & Etemad (2024), arXiv 2309.04849: two teachers, each at the level of logits and
of embeddings. γ, α, β and the others are fields of `DistillationConfig`, and w_t is the weight of teacher t.
In the formulas below, s is the student and t a teacher. z are logits, e is an embedding, h the student's
projection, and y the label.

The registry is read before torch is needed, such as for the names of an ablation's cells. So torch is loaded
when a loss is first computed.
"""

# Long: all terms of the loss, and the registry that names them, are read as one page.
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from emodistill.config import TEACHERS, DistillationConfig, Recipe
from emodistill.lazy import LazyModule
from emodistill.vote_loss import exclude, loss_of_votes

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F

    from emodistill.models.layers import Output
else:
    torch, F = LazyModule("torch"), LazyModule("torch.nn.functional")


class HardLabels(NamedTuple):
    """The labels of a batch and how they count: the arguments of `hard_label_loss` after the logits."""

    labels: Tensor  # (batch,)
    class_weights: Tensor | None = None  # (emotions,)
    smoothing: float = 0.0
    possible: Tensor | None = None  # (batch, emotions), False: the utterance's corpus lacks the emotion
    weights: Tensor | None = None  # (batch,)
    votes: Tensor | None = None  # (batch, emotions), shares of the votes; a row of NaN: the label counts
    vote_loss: Literal["cross-entropy", "kl"] = "cross-entropy"


class DimensionLabels(NamedTuple):
    """The labels of the dimensions of a batch: the arguments of `dimension_loss` after the predictions."""

    values: Tensor  # (batch, dimensions), from 0 to 1; NaN: the utterance has no label
    kind: str = "ccc"  # or "mse"


@dataclass
class WordTargets:
    """A text encoder's vectors of the words of a batch, and where the words are."""

    vectors: Tensor  # (words, dim)
    rows: Tensor  # (words,), the utterance in the batch
    spans: Tensor  # (words, 2), start and end as shares of the utterance's length


@dataclass
class Targets:
    """The outputs of one teacher for a batch."""

    logits: Tensor  # (batch, emotions)
    embedding: Tensor  # (batch, dim)
    available: (
        Tensor  # (batch,), False: the teacher has no output, such as for an utterance without transcript
    )
    hidden: Tensor | None = None  # (batch, frames, width), zero where padded
    words: WordTargets | None = None
    certainty: Tensor | None = None  # (batch,), how much an utterance counts; None: all count 1
    dimensions: Tensor | None = None  # (batch, dimensions), the teacher's predictions

    @property
    def counts(self) -> Tensor:
        """How much each utterance counts in the terms of logits and embeddings, (batch,)."""
        counts = self.available.to(self.logits.dtype)
        return counts if self.certainty is None else counts * self.certainty


# --- the terms -----------------------------------------------------------------------------------


def hard_label_loss(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    smoothing: float = 0.0,
    possible: Tensor | None = None,
    weights: Tensor | None = None,
    votes: Tensor | None = None,
    vote_loss: Literal["cross-entropy", "kl"] = "cross-entropy",
) -> Tensor:
    """Cross entropy between the student's probabilities and the labels, or the distributions of votes.

        L = Σ_i u_i CE_i / Σ_i u_i
        CE_i = −(1 − ε) log p_i(y_i) − ε mean_k log p_i(k),   p_i = softmax(z_s,i)

    u_i is the weight of utterance i: `class_weights` at its label, times `weights`. ε is `smoothing` (Szegedy
    et al. 2016, arXiv 1512.00567). Without `possible` and `weights`, PyTorch's cross entropy is called. It
    weighs the smoothed part by class k instead of by label.

    `possible` is for pooled corpora: it excludes the emotions that an utterance's corpus lacks. Softmax and
    mean run over the others, because nobody asked whether the utterance has one of those emotions.

    With `votes` the loss is that of `loss_of_votes`, which is the same for votes for one emotion alone.

    Args:
        logits: (batch, emotions), of the student.
        labels: (batch,).
        class_weights: (emotions,).
        possible: (batch, emotions), False: excluded.
        weights: (batch,).
        votes: (batch, emotions), rows that sum to 1. A row of NaN has no votes, so its label counts.
    """
    if votes is not None:
        shares = torch.where(votes.isnan(), F.one_hot(labels, logits.shape[1]).to(logits.dtype), votes)
        return loss_of_votes(logits, shares, class_weights, smoothing, possible, weights, vote_loss)
    if possible is None and weights is None:
        return F.cross_entropy(logits, labels, weight=class_weights, label_smoothing=smoothing)
    if possible is None:
        possible = torch.ones_like(logits, dtype=torch.bool)
    log = exclude(logits, possible).log_softmax(dim=1)
    at_label = -log.gather(1, labels[:, None])[:, 0]
    over_all = -(log * possible).sum(dim=1) / possible.sum(dim=1)
    weight = torch.ones_like(at_label) if class_weights is None else class_weights[labels]
    weight = weight if weights is None else weight * weights
    total = (weight * ((1 - smoothing) * at_label + smoothing * over_all)).sum()
    return total / weight.sum().clamp(min=1e-8)  # 0 where no utterance of the batch has a label


def ccc_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 − the concordance correlation coefficient (CCC) of each dimension over a batch, their mean.

        L = mean_d (1 − ρ_d),   ρ = 2 cov(x, y) / (var(x) + var(y) + (mean(x) − mean(y))²)

    x are the predictions of a dimension and y its targets, over the utterances that have one (Lin 1989,
    Biometrics 45). Variances and covariance divide by the number of utterances. Where x and y are all the
    same number, ρ is 0. A dimension counts if two utterances or more have a target, and the loss is 0 if no
    dimension does. With several devices, the batch is each device's own share.

    Args:
        predicted: (batch, dimensions).
        target: (batch, dimensions); NaN: the utterance has no target.
    """
    valid = ~target.isnan()
    target = torch.where(valid, target, 0.0)
    count = valid.sum(dim=0)
    share = valid / count.clamp(min=1)
    mean_x, mean_y = (predicted * share).sum(dim=0), (target * share).sum(dim=0)
    x, y = predicted - mean_x, target - mean_y
    covariance = (share * x * y).sum(dim=0)
    spread = (share * (x**2 + y**2)).sum(dim=0) + (mean_x - mean_y) ** 2
    ccc = 2 * covariance / spread.clamp(min=1e-8)
    return _mean_over(1 - ccc, count >= 2)


def mse_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared error of each dimension over the utterances that have a target, then the mean of dimensions.

        L = mean_d mean_i (x_i,d − y_i,d)²

    x are predictions and y targets. A dimension without a target in the batch does not count, and the loss is
    0 if there is none at all.

    Args:
        predicted: (batch, dimensions).
        target: (batch, dimensions); NaN: the utterance has no target.
    """
    valid = ~target.isnan()
    squares = (predicted - torch.where(valid, target, 0.0)) ** 2
    count = valid.sum(dim=0)
    return _mean_over((squares * valid).sum(dim=0) / count.clamp(min=1), count >= 1)


def dimension_loss(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
    """Distance between the student's dimensions and their labels.

        L = mean_d (1 − ρ_d) for the `kind` ccc, see `ccc_loss`;   mean_d mean_i (x_i,d − y_i,d)² for mse,
        see `mse_loss`

    The arguments are those of `ccc_loss`.
    """
    return {"ccc": ccc_loss, "mse": mse_loss}[kind](predicted, target)


def taught_dimension_loss(predicted: Tensor, teacher: Tensor, available: Tensor, kind: str) -> Tensor:
    """Distance between the student's dimensions and a teacher's predictions of them.

        L = L_dimensions(x, t) over the utterances for which the teacher has an output

    x are the student's predictions and t those of the teacher. The loss is the one that labels have
    (`dimension_loss`), so a weight means the same for both. A squared error of numbers from 0 to 1 would be
    far smaller than 1 − CCC.

    Args:
        predicted: (batch, dimensions), of the student.
        teacher: (batch, dimensions).
        available: (batch,), False: the teacher has no output.
    """
    return dimension_loss(predicted, teacher.masked_fill(~available[:, None], torch.nan), kind)


def logit_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    counts: Tensor,
    possible: Tensor | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of the student's softened probabilities from a teacher's.

        L = mean_i τ² KL(softmax(z_t,i / τ) ‖ softmax(z_s,i / τ))

    τ is `temperature`; the factor τ² keeps the size of the gradient the same for every τ (Hinton et al. 2015,
    arXiv 1503.02531). The mean is weighted by `counts`, and 0 if no utterance counts.

    Args:
        student: logits (batch, emotions).
        teacher: logits (batch, emotions).
        counts: (batch,), how much an utterance counts; 0 where the teacher has no output.
        possible: (batch, emotions), False: excluded, see `hard_label_loss`.
    """
    if possible is not None:
        student, teacher = exclude(student, possible), exclude(teacher, possible)
    log_teacher = (teacher / temperature).log_softmax(dim=1)
    log_student = (student / temperature).log_softmax(dim=1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)
    return temperature**2 * _mean_over(divergence, counts)


def embedding_loss(projected: Tensor, teacher: Tensor, distance: str, counts: Tensor) -> Tensor:
    """Distance between the student's projection and a teacher's embedding, whatever their lengths.

        L = mean_i d(h_i / |h_i|, e_i / |e_i|)

    d(a, b) is 1 − a · b for the `distance` cosine, |a − b|² = 2 (1 − a · b) for mse, and Σ_k |a_k − b_k| for
    l1. The mean is weighted by `counts`, and 0 if no utterance counts (Shome & Etemad 2024, arXiv
    2309.04849).

    Args:
        projected: (batch, dim), of the student's head for this teacher.
        teacher: (batch, dim).
        counts: (batch,), as in `logit_loss`.
    """
    a, b = F.normalize(projected, dim=1), F.normalize(teacher, dim=1)
    if distance == "cosine":
        return _mean_over(1 - (a * b).sum(dim=1), counts)
    difference = (a - b) ** 2 if distance == "mse" else (a - b).abs()
    return _mean_over(difference.sum(dim=1), counts)


def contrast_loss(projected: Tensor, teacher: Tensor, temperature: float, counts: Tensor) -> Tensor:
    """Whether each of the student's projections is nearest to its own target in the batch (InfoNCE).

        L = −mean_i log (exp(h_i · e_i / τ) / Σ_j exp(h_i · e_j / τ)),   all h and e with length 1

    The sum is over the rows that count, and the mean is weighted by `counts` (van den Oord et al. 2018, arXiv
    1807.03748). τ is `temperature`.

    Args:
        projected: (rows, dim).
        teacher: (rows, dim).
        counts: (rows,), as in `logit_loss`.
    """
    similarity = F.normalize(projected, dim=1) @ F.normalize(teacher, dim=1).T / temperature
    similarity = similarity.masked_fill(counts[None, :] <= 0, -1e4)
    own = torch.arange(len(similarity), device=similarity.device)
    return _mean_over(F.cross_entropy(similarity, own, reduction="none"), counts)


def word_states(frames: Tensor, mask: Tensor | None, words: WordTargets) -> Tensor:
    """Return the mean of the frames of each word, (words, dim); each word has at least one frame.

    Args:
        frames: (batch, frames, dim).
        mask: (batch, frames), True = valid, or None.
    """
    rows, (starts, ends) = words.rows, words.spans.unbind(dim=1)
    lengths = torch.full_like(rows, frames.shape[1]) if mask is None else mask.sum(dim=1)[rows]
    first = (starts * lengths).floor().long().clamp(min=0)
    first = torch.minimum(first, lengths - 1)
    last = torch.maximum(torch.minimum((ends * lengths).round().long(), lengths), first + 1)
    # Differences of running sums, in double precision, because the sums grow with time.
    sums = F.pad(frames.double().cumsum(dim=1), (0, 0, 1, 0))
    total = sums[rows, last] - sums[rows, first]
    return (total / (last - first)[:, None]).to(frames.dtype)


def word_loss(frames: Tensor, mask: Tensor | None, words: WordTargets | None) -> Tensor:
    """Distance between the student's frames of a word and a text encoder's contextual vector of that word.

        L = mean_w (1 − cos(mean_{f in w} h_f, v_w))

    h_f is the student's projection of frame f, and v_w the encoder's vector of word w in its sentence. The
    mean is over all words of the batch, and 0 if there are none.

    Args:
        frames: (batch, frames, dim), of the student's head over frames for this teacher.
        mask: (batch, frames), True = valid, or None.
    """
    if words is None or not len(words.rows):
        return 0.0 * frames.sum()
    return (1 - F.cosine_similarity(word_states(frames, mask, words), words.vectors, dim=1)).mean()


def word_contrast_loss(
    frames: Tensor, mask: Tensor | None, words: WordTargets | None, temperature: float
) -> Tensor:
    """Whether each of the student's words is nearest to its own vector among the words of the batch.

        L = −mean_w log (exp(h_w · v_w / τ) / Σ_u exp(h_w · v_u / τ)),   all h and v with length 1

    h_w is the mean of the student's frames of word w, as in `word_loss`, and v_w the encoder's vector; see
    `contrast_loss`.
    """
    if words is None or not len(words.rows):
        return 0.0 * frames.sum()
    states = word_states(frames, mask, words)
    return contrast_loss(states, words.vectors, temperature, torch.ones_like(states[:, 0]))


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Distance between the frame-level states of the student and of the acoustic teacher.

        L = mean_f (1 − cos(h_f, g_f))

    h_f is the student's projection and g_f the teacher's state of frame f. The mean is over the frames of the
    batch that are valid in both; padded frames of the teacher are zero. The faster of the two is first
    averaged down to the frame rate of the other, by a whole ratio. The loss is 0 if the teacher has no frame.

    Args:
        student: (batch, frames, width).
        teacher: (batch, frames, width); its number of frames may differ.
        mask: (batch, frames) of the student, True = valid, or None.
    """
    if not teacher.shape[1]:  # further speech alone, on which the teacher has no states
        return 0.0 * student.sum()
    ratio = round(teacher.shape[1] / student.shape[1])
    if ratio > 1:
        teacher = F.avg_pool1d(teacher.transpose(1, 2), ratio).transpose(1, 2)
    ratio = round(student.shape[1] / teacher.shape[1])
    if ratio > 1:
        student = F.avg_pool1d(student.transpose(1, 2), ratio).transpose(1, 2)
        mask = None if mask is None else mask[:, ratio - 1 :: ratio]
    frames = min(student.shape[1], teacher.shape[1])
    cosine = F.cosine_similarity(student[:, :frames], teacher[:, :frames], dim=2)
    valid = teacher[:, :frames].abs().sum(dim=2) > 0
    if mask is not None:
        valid = valid & mask[:, :frames]
    return _mean_over((1 - cosine).flatten(), valid.flatten())


def relational_loss(student: Tensor, teacher: Tensor, available: Tensor) -> Tensor:
    """Difference between the distances that student and teacher have between utterances (distance-wise RKD).

        L = mean_{i<j} huber(|s_i − s_j| / μ_s − |e_i − e_j| / μ_t)
        huber(x) = x² / 2 if |x| < 1, else |x| − 1/2

    s_i is the student's embedding of utterance i and e_i the teacher's. The mean is over all pairs of
    available utterances, and 0 if there is no pair. μ_s and μ_t are the means of the distances over the same
    pairs, so neither scale nor dimension has an effect (Park et al. 2019, arXiv 1904.05068). With several
    devices, the pairs are those of each device's own share of the batch.

    Args:
        student: (batch, dim).
        teacher: (batch, dim); its dim may differ.
        available: (batch,).
    """
    if available.sum() < 2:
        return 0.0 * student.sum()
    return F.smooth_l1_loss(_relative_distances(student[available]), _relative_distances(teacher[available]))


def _relative_distances(x: Tensor) -> Tensor:
    """Distances of all pairs of rows of x (n, dim), divided by their mean: (n (n − 1) / 2,)."""
    first, second = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    # The derivative of a square root at 0 is infinite, so equal rows count as almost equal.
    distances = ((x[first] - x[second]) ** 2).sum(dim=1).clamp(min=1e-12).sqrt()
    return distances / distances.mean()


def _mean_over(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of values (n,) weighted by `counts` (n,), each from 0 to 1; 0 if they are all 0.

    A sum of counts below 1 counts as 1, so one uncertain utterance is not raised to full weight.
    """
    weight = counts.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


# --- the registry --------------------------------------------------------------------------------

NO_TEACHER = ""  # in the place of a teacher's name, for a term that reads labels alone


@dataclass(frozen=True)
class TermInputs:
    """All that a term can read of a batch."""

    output: Output  # of the student
    hard: HardLabels
    config: DistillationConfig
    teacher: str  # or NO_TEACHER
    targets: Mapping[str, Targets]  # by teacher
    dimensions: DimensionLabels | None = None

    @property
    def target(self) -> Targets:
        """The outputs of this term's teacher."""
        return self.targets[self.teacher]

    @property
    def labels_of_dimensions(self) -> DimensionLabels:
        """The labels of the dimensions, for terms that are computed only where there are dimensions."""
        assert self.dimensions is not None
        return self.dimensions


@dataclass(frozen=True)
class LossTerm:
    """One term of the loss. Heads, ablation cells and the report's colours derive from these fields."""

    name: str  # in fit.json and in the report; a teacher's terms have its name before: "prosodic/logit"
    weight: str  # the field of `DistillationConfig` that weighs it; 0 there: it is not computed
    loss: Callable[..., Tensor]  # its docstring gives the formula, the symbols and the paper
    arguments: Callable[[TermInputs], tuple[Any, ...]]  # what `loss` is called with
    colour: int  # of its line in the report: N of `--cN` in report/page.css
    teachers: tuple[str, ...] = (
        TEACHERS  # those that have targets for it; (NO_TEACHER,): it reads labels alone
    )
    head: Literal["embedding", "hidden"] | None = None  # the projection of the student that it trains
    cell_alone: str | None = None  # the ablation cell in which it is the only term that reads teachers
    cell_without: str | None = None  # the ablation cell in which its weight is 0
    # Of which targets of a recipe it is; None: of all.
    of: Literal["emotion", "dimensions"] | None = None

    def weight_of(self, config: DistillationConfig, teacher: str) -> float:
        """The factor of this term for a teacher; 0: the term is off."""
        return config.weight(teacher) * getattr(config, self.weight) if teacher in self.teachers else 0.0

    def fits(self, has_emotions: bool, has_dimensions: bool) -> bool:
        """Whether a model with these outputs has what the term compares."""
        return {"emotion": has_emotions, "dimensions": has_dimensions, None: True}[self.of]

    def is_on(self, recipe: Recipe) -> bool:
        """Whether the term counts for any teacher of a recipe, or for the labels."""
        config = recipe.distillation
        weights = [self.weight_of(config, teacher) for teacher in (NO_TEACHER, *config.teachers)]
        return self.fits(recipe.has_emotions, bool(recipe.dimensions)) and any(weights)


TERMS = (
    LossTerm(
        "hard", "gamma", hard_label_loss,
        lambda x: (x.output.logits, *x.hard),
        colour=1, teachers=(NO_TEACHER,), cell_without="no-hard-label", of="emotion",
    ),
    LossTerm(
        "dimensions", "delta", dimension_loss,
        lambda x: (x.output.dimensions, *x.labels_of_dimensions),
        colour=9, teachers=(NO_TEACHER,), cell_without="no-dimension-labels", of="dimensions",
    ),
    LossTerm(
        "logit", "alpha", logit_loss,
        lambda x: (x.output.logits, x.target.logits, x.config.temperature, x.target.counts,
                   x.hard.possible),
        colour=2, cell_alone="logit-level-only", of="emotion",
    ),
    LossTerm(
        "embedding", "beta", embedding_loss,
        lambda x: (x.output.projections[x.teacher], x.target.embedding, x.config.distance,
                   x.target.counts),
        colour=3, head="embedding", cell_alone="embedding-level-only",
    ),
    LossTerm(
        "contrast", "contrast", contrast_loss,
        lambda x: (x.output.projections[x.teacher], x.target.embedding, x.config.contrast_temperature,
                   x.target.counts),
        colour=6, head="embedding", cell_without="no-contrast",
    ),
    LossTerm(
        "words", "words", word_loss,
        lambda x: (x.output.hidden_projections[x.teacher], x.output.mask, x.target.words),
        colour=7, teachers=("linguistic",), head="hidden", cell_alone="word-level-only",
        cell_without="no-words",
    ),
    LossTerm(
        "word_contrast", "word_contrast", word_contrast_loss,
        lambda x: (x.output.hidden_projections[x.teacher], x.output.mask, x.target.words,
                   x.config.contrast_temperature),
        colour=8, teachers=("linguistic",), head="hidden", cell_without="no-word-contrast",
    ),
    LossTerm(
        "hidden", "hidden", hidden_loss,
        lambda x: (x.output.hidden_projections[x.teacher], x.target.hidden, x.output.mask),
        colour=4, teachers=("acoustic",), head="hidden", cell_without="no-hidden-states",
    ),
    LossTerm(
        "relational", "relational", relational_loss,
        lambda x: (x.output.embedding, x.target.embedding, x.target.available),
        colour=5, cell_alone="relational-level-only", cell_without="no-relational",
    ),
    LossTerm(
        "taught_dimensions", "dimensions", taught_dimension_loss,
        lambda x: (x.output.dimensions, x.target.dimensions, x.target.available,
                   x.labels_of_dimensions.kind),
        colour=10, cell_alone="taught-dimensions-only", cell_without="no-taught-dimensions", of="dimensions",
    ),
)  # fmt: skip


def distillation_loss(
    output: Output,
    hard: HardLabels,
    targets: Mapping[str, Targets],
    config: DistillationConfig,
    dimensions: DimensionLabels | None = None,
) -> dict[str, Tensor]:
    """Return every weighted term of the loss by name, and their sum as `loss`.

    A term of weight 0 is not computed, but for those of labels: classifier and regressor must always have a
    gradient, because several processes would wait for it.

    Args:
        targets: the outputs of each teacher, by its name.
        dimensions: None for a student without dimensions. A student without emotions has no logits.
    """
    terms: dict[str, Tensor] = {}
    fitting = [term for term in TERMS if term.fits(output.logits.shape[1] > 0, dimensions is not None)]
    for teacher in (NO_TEACHER, *targets):
        inputs = TermInputs(output, hard, config, teacher, targets, dimensions)
        for term in fitting:
            weight = term.weight_of(config, teacher)
            if weight or term.teachers == (teacher,) == (NO_TEACHER,):
                name = f"{teacher}/{term.name}" if teacher else term.name
                terms[name] = weight * term.loss(*term.arguments(inputs))
    terms["loss"] = torch.stack(list(terms.values())).sum()
    return terms


def heads_in_use(config: DistillationConfig, teacher: str) -> set[str]:
    """Return which projections of a student a teacher's terms train: "embedding", "hidden", both or none."""
    return {term.head for term in TERMS if term.head is not None and term.weight_of(config, teacher)}


def student_heads(
    config: DistillationConfig, teacher: str, embedding_dim: int, hidden_dim: int | None
) -> dict[str, int]:
    """Return the heads that a student needs for a teacher, name -> size: those that a term trains.

    `hidden_dim` is the size of the teacher's states of frames or words; None: it has none.

    A head that no term trains would give noise, and several processes would wait for its gradient.
    """
    from emodistill.models.student import frame_head  # it loads torch

    in_use = heads_in_use(config, teacher)
    heads = {teacher: embedding_dim} if "embedding" in in_use else {}
    if "hidden" in in_use and hidden_dim is not None:
        heads[frame_head(teacher)] = hidden_dim
    return heads
