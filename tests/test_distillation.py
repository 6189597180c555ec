"""The losses against values computed by hand, their masks and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emodistill.config import DistillationConfig
from emodistill.distillation import (
    Targets,
    distillation_loss,
    embedding_loss,
    hard_label_loss,
    hidden_loss,
    logit_loss,
)
from emodistill.models.layers import Output

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
def test_emotions_that_a_corpus_lacks_are_not_in_the_losses(smoothing: float) -> None:
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


def test_losses_where_every_emotion_is_possible_are_the_plain_ones() -> None:
    logits, labels, weights = randn(4, 3), torch.tensor([0, 2, 1, 1]), torch.tensor([1.0, 2.0, 0.5])
    everything = torch.ones(4, 3, dtype=torch.bool)
    plain = hard_label_loss(logits, labels, weights, 0.0)
    torch.testing.assert_close(hard_label_loss(logits, labels, weights, 0.0, everything), plain)
    smooth = hard_label_loss(logits, labels, None, 0.2)
    torch.testing.assert_close(hard_label_loss(logits, labels, None, 0.2, everything), smooth)


def test_utterances_weigh_what_they_are_given() -> None:
    logits, labels = randn(4, 3), torch.tensor([0, 2, 1, 1])
    each = [hard_label_loss(logits[i : i + 1], labels[i : i + 1], None, 0.1).item() for i in range(4)]
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0])
    found = hard_label_loss(logits, labels, None, 0.1, weights=weights).item()
    assert found == pytest.approx((each[0] + 2 * each[1] + 0.5 * each[2]) / 3.5)
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


def test_logit_loss_is_zero_between_equals_and_positive_else() -> None:
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


def test_nothing_available_is_zero_with_a_gradient_of_zero() -> None:
    student = randn(2, 3).requires_grad_()
    nobody = torch.tensor([False, False])
    loss = logit_loss(student, randn(2, 3, seed=1), 2.0, nobody) + embedding_loss(
        student, randn(2, 3, seed=2), "cosine", nobody
    )
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros(2, 3))


def test_masked_utterances_get_no_gradient() -> None:
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


def made_output() -> tuple[Output, dict[str, Targets]]:
    output = Output(
        randn(2, 3), randn(2, 4, seed=1),
        {"prosodic": randn(2, 5, seed=2), "acoustic": randn(2, 6, seed=3), "acoustic_hidden": randn(2, 7, 8, seed=4)},
    )  # fmt: skip
    targets = {
        "prosodic": Targets(randn(2, 3, seed=5), randn(2, 5, seed=6), torch.tensor([True, False])),
        "acoustic": Targets(randn(2, 3, seed=7), randn(2, 6, seed=8), ALL, randn(2, 7, 8, seed=9)),
    }
    return output, targets


def test_the_sum_is_the_formula() -> None:
    output, targets = made_output()
    config = DistillationConfig(
        teachers=("prosodic", "acoustic"), alpha=0.5, beta=2.0, gamma=0.7, hidden=0.3, temperature=3.0,
        weights={"prosodic": 0.4}, distance="l1",
    )  # fmt: skip
    terms = distillation_loss(output, torch.tensor(1.5), targets, config)
    prosodic, acoustic = targets["prosodic"], targets["acoustic"]
    expected = {
        "hard": 0.7 * 1.5,
        "prosodic/logit": 0.4 * 0.5 * logit_loss(output.logits, prosodic.logits, 3.0, prosodic.available),
        "prosodic/embedding": 0.4 * 2.0
        * embedding_loss(output.projections["prosodic"], prosodic.embedding, "l1", prosodic.available),
        "acoustic/logit": 0.5 * logit_loss(output.logits, acoustic.logits, 3.0, ALL),
        "acoustic/embedding": 2.0
        * embedding_loss(output.projections["acoustic"], acoustic.embedding, "l1", ALL),
        "acoustic/hidden": 0.3 * hidden_loss(output.projections["acoustic_hidden"], acoustic.hidden, None),
    }  # fmt: skip
    assert set(terms) == {*expected, "loss"}
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(float(value), abs=1e-6), name
    assert float(terms["loss"]) == pytest.approx(sum(float(value) for value in expected.values()), abs=1e-5)


def test_terms_of_weight_zero_are_not_computed() -> None:
    output, targets = made_output()
    config = DistillationConfig(alpha=0, beta=1, gamma=1, weights={"acoustic": 0.0})
    terms = distillation_loss(output, torch.tensor(1.0), targets, config)
    assert set(terms) == {"hard", "prosodic/embedding", "loss"}
