"""The losses against values computed by hand, their masks and their gradients."""

import inspect
import re
from importlib.resources import files
from pathlib import Path

import factories as make
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from emodistill.config import TEACHERS, DistillationConfig, Recipe
from emodistill.distillation import (
    NO_TEACHER,
    TERMS,
    DimensionLabels,
    HardLabels,
    LossTerm,
    Targets,
    TermInputs,
    WordTargets,
    contrast_loss,
    distillation_loss,
    embedding_loss,
    hard_label_loss,
    heads_in_use,
    hidden_loss,
    logit_loss,
    relational_loss,
    student_heads,
    word_contrast_loss,
    word_loss,
    word_states,
)
from emodistill.models.layers import Output
from emodistill.report.figures import learning_curves
from emodistill.training.fit import FitResult
from emodistill.training.grid import make_grid

ALL = torch.tensor([True, True])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_hard_label_loss_by_hand() -> None:
    logits, labels = torch.tensor([[0.0, 0.0], [float(np.log(3.0)), 0.0]]), torch.tensor([0, 1])
    # CE is ln 2 and ln 4; with weights 3 and 1 their mean is (3 ln 2 + ln 4) / 4.
    assert hard_label_loss(logits, labels).item() == pytest.approx((np.log(2) + np.log(4)) / 2)
    weighted = hard_label_loss(logits, labels, torch.tensor([3.0, 1.0])).item()
    assert weighted == pytest.approx((3 * np.log(2) + np.log(4)) / 4)
    # Smoothing by 0.2: the second target is (0.1, 0.9), log p is (ln 0.75, ln 0.25).
    smooth = hard_label_loss(logits, labels, smoothing=0.2).item()
    assert smooth == pytest.approx((np.log(2) - 0.1 * np.log(0.75) - 0.9 * np.log(0.25)) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_emotions_that_a_corpus_lacks_do_not_count(smoothing: float) -> None:
    possible = torch.tensor([[True, False, True], [True, False, True]])
    logits, teacher = randn(2, 3).requires_grad_(), randn(2, 3, seed=1)
    hard = hard_label_loss(logits, torch.tensor([0, 2]), None, smoothing, possible)
    without = hard_label_loss(logits[:, [0, 2]], torch.tensor([0, 1]), None, smoothing)
    assert hard.item() == pytest.approx(without.item(), abs=1e-6)
    soft = logit_loss(logits, teacher, 2.0, ALL, possible)
    expected = logit_loss(logits[:, [0, 2]], teacher[:, [0, 2]], 2.0, ALL)
    assert soft.item() == pytest.approx(expected.item(), abs=1e-5)
    (hard + soft).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] == 0).all()
    assert (logits.grad[:, [0, 2]] != 0).all()


def test_with_all_emotions_possible_the_loss_is_cross_entropy() -> None:
    logits, labels, weights = randn(4, 3), torch.tensor([0, 2, 1, 1]), torch.tensor([1.0, 2.0, 0.5])
    all_possible = torch.ones(4, 3, dtype=torch.bool)
    plain = hard_label_loss(logits, labels, weights, 0.0)
    torch.testing.assert_close(hard_label_loss(logits, labels, weights, 0.0, all_possible), plain)
    smooth = hard_label_loss(logits, labels, None, 0.2)
    torch.testing.assert_close(hard_label_loss(logits, labels, None, 0.2, all_possible), smooth)


def test_utterances_are_weighted() -> None:
    logits, labels = randn(4, 3), torch.tensor([0, 2, 1, 1])
    each = [hard_label_loss(logits[i : i + 1], labels[i : i + 1], None, 0.1).item() for i in range(4)]
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0])
    loss = hard_label_loss(logits, labels, None, 0.1, weights=weights).item()
    assert loss == pytest.approx((each[0] + 2 * each[1] + 0.5 * each[2]) / 3.5)
    both = hard_label_loss(logits, labels, torch.tensor([1.0, 3.0, 1.0]), 0.1, weights=weights).item()
    assert both == pytest.approx((each[0] + 2 * each[1] + 1.5 * each[2]) / 4.5)


def test_logit_loss_by_hand() -> None:
    # One utterance, τ = 1: teacher (3/4, 1/4), student (1/2, 1/2); KL = 3/4 ln 3/2 + 1/4 ln 1/2.
    teacher, student = torch.tensor([[np.log(3.0), 0.0]]).float(), torch.zeros(1, 2)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert logit_loss(student, teacher, 1.0, ALL[:1]).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 5.0])
def test_logit_loss_against_numpy(temperature: float) -> None:
    student, teacher = randn(4, 5), randn(4, 5, seed=1)
    p, q = softmax(teacher.numpy() / temperature), softmax(student.numpy() / temperature)
    rows = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1)
    available = torch.tensor([True, False, True, True])
    got = logit_loss(student, teacher, temperature, available).item()
    assert got == pytest.approx(rows[[0, 2, 3]].mean(), abs=1e-5)


def test_logit_loss_is_zero_for_equal_probabilities_only() -> None:
    logits = randn(2, 4)
    assert logit_loss(logits, logits + 3.0, 2.0, ALL).item() == pytest.approx(0.0, abs=1e-6)
    assert logit_loss(logits, 2 * logits, 2.0, ALL).item() > 1e-3


def test_gradient_of_the_logit_loss() -> None:
    # d/dz_s of τ² KL is τ (softmax(z_s/τ) − softmax(z_t/τ)), here over a mean of two utterances.
    student, teacher, temperature = randn(2, 3).requires_grad_(), randn(2, 3, seed=1), 3.0
    logit_loss(student, teacher, temperature, ALL).backward()
    difference = softmax(student.detach().numpy() / temperature) - softmax(teacher.numpy() / temperature)
    np.testing.assert_allclose(student.grad.numpy(), temperature * difference / 2, atol=1e-6)


def test_embedding_losses_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0], [0.0, 9.0]])
    # cos = 0.6 and 1; normalised differences are (−0.4, 0.8) and 0.
    assert embedding_loss(student, teacher, "cosine", ALL).item() == pytest.approx(0.2, abs=1e-6)
    assert embedding_loss(student, teacher, "mse", ALL).item() == pytest.approx(0.4, abs=1e-6)
    assert embedding_loss(student, teacher, "l1", ALL).item() == pytest.approx(0.6, abs=1e-6)
    second = torch.tensor([False, True])
    assert embedding_loss(student, teacher, "cosine", second).item() == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.floats(0.1, 50))
def test_mse_is_twice_the_cosine_distance_at_any_scale(seed: int, dim: int, scale: float) -> None:
    student, teacher = randn(3, dim, seed=seed), randn(3, dim, seed=seed + 1)
    valid = torch.tensor([True, False, True])
    cosine = embedding_loss(scale * student, teacher, "cosine", valid).item()
    assert embedding_loss(student, teacher, "mse", valid).item() == pytest.approx(2 * cosine, abs=1e-5)


def test_without_available_utterances_loss_and_gradient_are_zero() -> None:
    student = randn(2, 3).requires_grad_()
    none = torch.tensor([False, False])
    loss = logit_loss(student, randn(2, 3, seed=1), 2.0, none) + embedding_loss(
        student, randn(2, 3, seed=2), "cosine", none
    )
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros(2, 3))


def test_unavailable_utterances_get_no_gradient() -> None:
    student = randn(2, 3).requires_grad_()
    logit_loss(student, randn(2, 3, seed=1), 2.0, torch.tensor([True, False])).backward()
    assert student.grad[0].abs().sum() > 0
    assert student.grad[1].abs().sum() == 0


def test_hidden_loss_by_hand() -> None:
    student = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    # Distances 0 and 1; the third frame is padding.
    assert hidden_loss(student, teacher, mask).item() == pytest.approx(0.5, abs=1e-6)


def test_hidden_loss_averages_a_faster_teacher_down() -> None:
    slow = randn(2, 5, 4)
    fast = slow.repeat_interleave(2, dim=1)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert hidden_loss(slow, fast, mask).item() == pytest.approx(0.0, abs=1e-6)
    assert hidden_loss(-slow, fast, mask).item() == pytest.approx(2.0, abs=1e-6)


def test_hidden_loss_ignores_padding_of_the_targets() -> None:
    student, teacher = randn(1, 4, 3), randn(1, 4, 3, seed=1)
    short = torch.cat([teacher[:, :2], torch.zeros(1, 2, 3)], dim=1)
    expected = hidden_loss(student[:, :2], teacher[:, :2], None)
    assert hidden_loss(student, short, None).item() == pytest.approx(expected.item(), abs=1e-6)


def test_hidden_loss_is_zero_for_a_batch_without_states_of_the_teacher() -> None:
    student = randn(2, 4, 3).requires_grad_()
    loss = hidden_loss(student, torch.zeros(2, 0, 3), None)
    loss.backward()
    assert loss.item() == 0.0


# --- relational distillation ---------------------------------------------------------------------


def test_relational_loss_by_hand() -> None:
    # Points of the student at 0, 1 and 3 on a line: distances 1, 3 and 2, of mean 2, so 0.5, 1.5 and 1.
    # Those of the teacher, a triangle of sides 3, 5 and 4, have the mean 4, so 0.75, 1.25 and 1.
    student = torch.tensor([[0.0], [1.0], [3.0]])
    teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    expected = (0.25**2 / 2 + 0.25**2 / 2 + 0) / 3
    assert relational_loss(student, teacher, torch.ones(3, dtype=torch.bool)).item() == pytest.approx(
        expected
    )


def test_relational_loss_is_linear_beyond_a_difference_of_one() -> None:
    # Three equal points and one apart: distances 0 and 1, three times each, so relative 0 and 2.
    # The points of the teacher are all equally far apart, so relative 1; every difference costs 1/2.
    far = torch.zeros(4, 3)
    far[3, 0] = 1
    simplex = torch.eye(4)
    every = torch.ones(4, dtype=torch.bool)
    assert relational_loss(far, simplex, every).item() == pytest.approx(0.5, abs=1e-4)
    # Two pairs of equal points: distances 0 twice and 1 four times, so relative 0 and 1.5.
    # The teacher pairs them otherwise: four differences of 1.5 cost 1 each, and two are 0.
    student, teacher = torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([[0.0], [9.0], [0.0], [9.0]])
    assert relational_loss(student, teacher, every).item() == pytest.approx(4 / 6, abs=1e-4)


def test_relational_loss_reads_available_utterances_alone() -> None:
    student, teacher = randn(6, 4).requires_grad_(), randn(6, 7, seed=1)
    available = torch.tensor([True, False, True, True, False, True])
    loss = relational_loss(student, teacher, available)
    torch.testing.assert_close(
        loss, relational_loss(student[available], teacher[available], torch.ones(4, dtype=torch.bool))
    )
    loss.backward()
    assert student.grad is not None
    assert (student.grad[available] != 0).any(dim=1).all()
    assert (student.grad[~available] == 0).all()


@pytest.mark.parametrize("num_available", [0, 1])
def test_relational_loss_of_fewer_than_two_is_zero_with_a_gradient(num_available: int) -> None:
    student = randn(3, 4).requires_grad_()
    available = torch.arange(3) < num_available
    loss = relational_loss(student, randn(3, 4, seed=1), available)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros(3, 4))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.floats(0.01, 100))
def test_relational_loss_ignores_scale_place_and_rotation(seed: int, batch: int, scale: float) -> None:
    student, teacher = randn(batch, 5, seed=seed), randn(batch, 5, seed=seed + 1)
    rotation, _ = torch.linalg.qr(randn(5, 5, seed=seed + 2))
    every = torch.ones(batch, dtype=torch.bool)
    expected = relational_loss(student, teacher, every).item()
    moved = scale * student @ rotation + 3.0
    assert relational_loss(moved, teacher, every).item() == pytest.approx(expected, abs=1e-3)
    assert relational_loss(moved, student, every).item() == pytest.approx(0.0, abs=1e-4)


def test_equal_embeddings_give_a_finite_gradient() -> None:
    student = torch.ones(4, 3, requires_grad=True)
    relational_loss(student, randn(4, 3), torch.ones(4, dtype=torch.bool)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


# --- words and contrast ---


def test_the_state_of_a_word_is_the_mean_of_its_frames() -> None:
    frames = torch.arange(16, dtype=torch.float32).reshape(2, 8, 1)
    mask = torch.tensor([[True] * 8, [True] * 4 + [False] * 4])
    spans = torch.tensor([[0.0, 0.25], [0.25, 1.0], [0.5, 1.0], [0.99, 1.0]])
    words = WordTargets(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), spans)
    # Of row 0 the frames 0 and 1, then 2 to 7; of row 1, which has four frames, 2 and 3, then 3 alone.
    assert word_states(frames, mask, words)[:, 0].tolist() == [0.5, 4.5, 10.5, 11.0]


@given(st.integers(1, 40), st.floats(0, 1), st.floats(0, 1), st.integers(0, 20))
def test_a_word_has_at_least_one_frame_and_padding_does_not_change_it(
    num_frames: int, one: float, two: float, padding: int
) -> None:
    frames = randn(1, num_frames, 3)
    words = WordTargets(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([sorted([one, two])]))
    alone_ = word_states(frames, None, words)
    assert alone_.isfinite().all()
    mask = torch.arange(num_frames + padding)[None] < num_frames
    padded = word_states(F.pad(frames, (0, 0, 0, padding), value=9.0), mask, words)
    torch.testing.assert_close(padded, alone_)


def test_word_losses_are_zero_without_words() -> None:
    frames = randn(2, 5, 3).requires_grad_()
    none = WordTargets(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0, 2))
    for words in (None, none):
        value = word_loss(frames, None, words) + word_contrast_loss(frames, None, words, 0.1)
        assert value.item() == 0.0
        value.backward()


def test_contrast_loss_by_hand() -> None:
    student = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    # The cosines are 1 with the own target and 0 with the other one; τ = 1.
    expected = -np.log(np.e / (np.e + 1))
    assert contrast_loss(student, teacher, 1.0, torch.ones(2)).item() == pytest.approx(expected)
    # An utterance that does not count is no target of the others either.
    assert contrast_loss(student, teacher, 1.0, torch.tensor([1.0, 0.0])).item() == pytest.approx(0.0)
    swapped = contrast_loss(student, teacher.flip(0), 1.0, torch.ones(2)).item()
    assert swapped == pytest.approx(expected + 1)


def test_certainty_weighs_the_terms_of_logits_and_embeddings() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    every, first = torch.ones(3, dtype=torch.bool), torch.tensor([1.0, 0.0, 0.0])
    target = Targets(teacher, teacher, every, certainty=first)
    assert logit_loss(student, teacher, 2.0, target.counts).item() == pytest.approx(
        logit_loss(student[:1], teacher[:1], 2.0, torch.ones(1)).item()
    )
    half = Targets(teacher, teacher, every, certainty=torch.full((3,), 0.5))
    assert embedding_loss(student, teacher, "cosine", half.counts).item() == pytest.approx(
        embedding_loss(student, teacher, "cosine", every).item()
    )


# --- the sum -------------------------------------------------------------------------------------


def require_gradients(output: Output) -> None:
    for value in (
        output.logits,
        output.embedding,
        *output.projections.values(),
        *output.hidden_projections.values(),
    ):
        value.requires_grad_()
    if output.dimensions is not None:
        output.dimensions.requires_grad_()


def example_batch() -> tuple[Output, HardLabels, dict[str, Targets]]:
    """Outputs that need a gradient, labels and targets of a batch of four."""
    output = Output(
        randn(4, 3), F.normalize(randn(4, 4, seed=1), dim=1),
        {"prosodic": randn(4, 5, seed=2), "acoustic": randn(4, 6, seed=3)},
        {"acoustic": randn(4, 7, 8, seed=4)},
    )  # fmt: skip
    require_gradients(output)
    targets = {
        "prosodic": Targets(
            randn(4, 3, seed=5), randn(4, 5, seed=6), torch.tensor([True, False, True, True])
        ),
        "acoustic": Targets(
            randn(4, 3, seed=7), randn(4, 6, seed=8), torch.ones(4, dtype=torch.bool), randn(4, 7, 8, seed=9)
        ),
    }
    return output, HardLabels(torch.tensor([0, 2, 1, 1])), targets


def test_the_loss_is_the_sum_of_the_weighted_terms() -> None:
    output, hard, targets = example_batch()
    config = DistillationConfig(
        teachers=("prosodic", "acoustic"), alpha=0.5, beta=2.0, gamma=0.7, hidden=0.3, relational=0.9,
        temperature=3.0, weights={"prosodic": 0.4}, distance="l1",
    )  # fmt: skip
    terms = distillation_loss(output, hard, targets, config)
    prosodic, acoustic = targets["prosodic"], targets["acoustic"]
    available, every = prosodic.available, acoustic.available
    expected = {
        "hard": 0.7 * hard_label_loss(output.logits, hard.labels),
        "prosodic/logit": 0.4 * 0.5 * logit_loss(output.logits, prosodic.logits, 3.0, available),
        "prosodic/embedding": 0.4 * 2.0
        * embedding_loss(output.projections["prosodic"], prosodic.embedding, "l1", available),
        "prosodic/relational": 0.4 * 0.9 * relational_loss(output.embedding, prosodic.embedding, available),
        "acoustic/logit": 0.5 * logit_loss(output.logits, acoustic.logits, 3.0, every),
        "acoustic/embedding": 2.0
        * embedding_loss(output.projections["acoustic"], acoustic.embedding, "l1", every),
        "acoustic/hidden": 0.3 * hidden_loss(output.hidden_projections["acoustic"], acoustic.hidden, None),
        "acoustic/relational": 0.9 * relational_loss(output.embedding, acoustic.embedding, every),
    }  # fmt: skip
    assert list(terms) == [*expected, "loss"]
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), abs=1e-6), name
    assert terms["loss"].item() == pytest.approx(sum(value.item() for value in expected.values()), abs=1e-5)


def test_terms_of_weight_zero_are_not_computed() -> None:
    output, hard, targets = example_batch()
    config = DistillationConfig(alpha=0, beta=1, gamma=1, weights={"acoustic": 0.0})
    assert set(distillation_loss(output, hard, targets, config)) == {"hard", "prosodic/embedding", "loss"}


def test_the_classifier_has_a_gradient_without_the_hard_label() -> None:
    output, hard, targets = example_batch()
    terms = distillation_loss(output, hard, targets, DistillationConfig(gamma=0, alpha=0))
    terms["loss"].backward()
    assert terms["hard"].item() == 0.0
    assert torch.equal(output.logits.grad, torch.zeros(4, 3))


# --- the registry --------------------------------------------------------------------------------

POSITIVE_FOR_A_PERFECT_STUDENT = {
    "hard",
    "contrast",
    "word_contrast",
}  # terms that are not 0 where the student equals its teacher


def alone(term: LossTerm, weight: float = 1.0) -> DistillationConfig:
    """The options in which no other term counts, for all teachers."""
    return DistillationConfig(
        teachers=TEACHERS, **{**{item.weight: 0.0 for item in TERMS}, term.weight: weight}
    )


def word_batch(perfect: bool) -> tuple[Output, dict[str, Targets]]:
    """Outputs over frames, and a text encoder's vectors of five words of three utterances."""
    output = Output(
        randn(4, 3), F.normalize(randn(4, 4, seed=1), dim=1), {}, {"linguistic": randn(4, 7, 8, seed=4)}
    )
    require_gradients(output)
    spans = torch.tensor([[0.0, 0.3], [0.3, 0.35], [0.5, 1.0], [0.0, 1.0], [0.9, 1.0]])
    words = WordTargets(randn(5, 8, seed=5), torch.tensor([0, 0, 1, 3, 3]), spans)
    if perfect:
        words.vectors = word_states(output.hidden_projections["linguistic"].detach(), None, words)
    every = torch.ones(4, dtype=torch.bool)
    return output, {"linguistic": Targets(randn(4, 3, seed=6), randn(4, 5, seed=7), every, words=words)}


def inputs_of(term: LossTerm, perfect: bool = False) -> TermInputs:
    """The inputs of a term. With `perfect`, the student's outputs equal those of the acoustic teacher."""
    output, hard, targets = example_batch()
    if term.of == "dimensions":
        taught = torch.rand(4, 2, generator=torch.Generator().manual_seed(3))
        output.dimensions = taught.clone() if perfect else randn(4, 2, seed=10)
        require_gradients(output)
        targets["acoustic"].dimensions = taught
        teacher = NO_TEACHER if NO_TEACHER in term.teachers else "acoustic"
        return TermInputs(output, hard, alone(term), teacher, targets, DimensionLabels(taught))
    if term.teachers == ("linguistic",):
        output, targets = word_batch(perfect)
        return TermInputs(output, hard, alone(term), "linguistic", targets)
    if perfect:
        target = targets["acoustic"]
        assert target.hidden is not None
        output = Output(
            target.logits.clone(), target.embedding.clone(), {"acoustic": target.embedding.clone()},
            {"acoustic": target.hidden.clone()},
        )  # fmt: skip
    return TermInputs(
        output, hard, alone(term), NO_TEACHER if NO_TEACHER in term.teachers else "acoustic", targets
    )


def test_the_names_in_the_registry_are_unique() -> None:
    names = [term.name for term in TERMS]
    cells = [cell for term in TERMS for cell in (term.cell_alone, term.cell_without) if cell]
    colours = [term.colour for term in TERMS]
    for values in (names, cells, colours, [term.weight for term in TERMS]):
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_every_term_has_a_weight_a_formula_and_a_colour(term: LossTerm) -> None:
    assert term.weight in DistillationConfig.model_fields
    formula = inspect.getdoc(term.loss) or ""
    assert re.search(r"^ +L = ", formula, re.MULTILINE), (
        "the docstring lacks an indented line `L = …` with the formula"
    )
    style = (files("emodistill.report") / "page.css").read_text(encoding="utf-8")
    assert f".series-{term.colour} {{" in style
    assert f"--c{term.colour}:" in style
    assert set(term.teachers) <= {NO_TEACHER, *TEACHERS}


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_every_term_is_positive_and_teaches_the_student(term: LossTerm) -> None:
    inputs = inputs_of(term)
    value = term.loss(*term.arguments(inputs))
    assert value.shape == ()
    assert value.item() > 0
    value.backward()
    output = inputs.output
    tensors = [
        output.logits,
        output.embedding,
        *output.projections.values(),
        *output.hidden_projections.values(),
        *([] if output.dimensions is None else [output.dimensions]),
    ]
    trained = [item for item in tensors if item.grad is not None and item.grad.abs().sum() > 0]
    assert trained
    if term.head == "embedding":
        assert trained == [output.projections["acoustic"]]
    if term.head == "hidden":
        assert trained == [output.hidden_projections[inputs.teacher]]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_every_term_is_zero_for_a_perfect_student(term: LossTerm) -> None:
    inputs = inputs_of(term, perfect=True)
    value = term.loss(*term.arguments(inputs)).item()
    if term.name in POSITIVE_FOR_A_PERFECT_STUDENT:
        assert value > 0
    else:
        assert value == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_every_term_needs_its_head_and_no_other(term: LossTerm) -> None:
    config = alone(term)
    for teacher in TEACHERS:
        expected = {term.head} if term.head and teacher in term.teachers else set()
        assert heads_in_use(config, teacher) == expected
        hidden_dim = None if teacher == "prosodic" else 9
        heads = {"embedding": {teacher: 7}, "hidden": {f"{teacher}_hidden": 9}}
        wanted = heads[term.head] if expected and term.head else {}
        assert student_heads(config, teacher, 7, hidden_dim) == wanted


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_every_term_that_is_on_has_its_ablation_cells(term: LossTerm, tmp_path: Path) -> None:
    def cells(weight: float) -> dict[str, Recipe]:
        distillation = {"teachers": TEACHERS, "relational": 1.0, "hidden": 1.0, term.weight: weight}
        corpus = {"words": "words.csv"}
        targets = ["emotion", "arousal"] if term.of == "dimensions" else ["emotion"]
        recipe = make.recipe(
            tmp_path / "utterances.csv", distillation=distillation, corpus=corpus, targets=targets
        )
        return {cell.name: cell.recipe for cell in make_grid(recipe).cells}

    own = {cell for cell in (term.cell_alone, term.cell_without) if cell}
    assert own, "an ablation shows what the term is worth"
    assert own <= set(cells(0.5))
    assert not own & set(cells(0.0))
    if term.cell_without:
        assert not term.is_on(cells(0.5)[term.cell_without])
    if term.cell_alone:
        on = {other.name for other in TERMS if other.is_on(cells(0.5)[term.cell_alone])}
        assert on == {"hard", term.name} | ({"dimensions"} if term.of == "dimensions" else set())


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_every_term_has_its_colour_in_the_report(term: LossTerm) -> None:
    teacher = "" if NO_TEACHER in term.teachers else f"{term.teachers[-1]}/"
    rows = [{"epoch": float(epoch), "loss": 2.0, f"{teacher}{term.name}": 1.0} for epoch in (1, 2)]
    (chart,) = learning_curves({"student": {"1": FitResult(2, None, rows)}})
    ((classes, _),) = chart["terms"]
    assert classes.split()[0] == f"series-{term.colour}"
    assert f'class="line {classes}"' in chart["loss"]
