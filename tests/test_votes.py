"""Listeners' votes: in manifests, in tables of corpora, as targets of training, and their loss."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emodistill.corpora import Corpus, Utterance, read_manifest, write_manifest
from emodistill.corpora.base import most_frequent, vote_distribution
from emodistill.distillation import HardLabels, hard_label_loss
from emodistill.errors import CorpusError
from emodistill.labels import LabelMap, LabelSet
from emodistill.training.labels import (
    inverse_frequencies,
    label_indices,
    label_weights,
    possible_emotions,
    vote_shares,
)

LABELS = LabelSet(("angry", "happy", "sad"))


def voted(name: str, emotion: str | None, votes: dict[str, float] | None = None, **fields: Any) -> Utterance:
    text = None if votes is None else json.dumps(votes)
    return Utterance(**{"id": name, "speaker": "s1", "emotion": emotion, "votes": text, **fields})


# --- manifests ------------------------------------------------------------------------------------


def read_rows(folder: Path, header: str, *rows: str, **options: Any) -> Corpus:
    path = folder / "mine.tsv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return read_manifest(path, **options)


HEADER = "id\tspeaker\temotion\tvotes"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            "angry\t{angry: 2}",
            r"row 3: votes are '\{angry: 2\}', which is no JSON .*expected \{emotion: count\}",
        ),
        ("angry\tangry;sad", r"row 3: votes .* A list such as angry;sad stands in the column emotion"),
        ("angry\t[1, 2]", r"row 3: votes are '\[1, 2\]', expected \{emotion: count\} as JSON"),
        ('angry\t{"angri": 2}', r"row 3: bad emotion 'angri'.*angry"),
        ('angry\t{"angry": -1}', r"row 3: votes for 'angry' are -1, expected a count of 0 or more"),
        ('angry\t{"angry": "two"}', r"row 3: votes for 'angry' are \"two\", expected a count"),
        ('angry\t{"angry": true}', r"row 3: votes for 'angry' are true, expected a count"),
        ('angry\t{"angry": NaN}', r"row 3: votes for 'angry' are NaN, expected a count"),
        ('angry\t{"angry": 0, "sad": 0}', r"row 3: votes are .*, which sum to 0; expected a vote"),
        ("angry\t{}", r"row 3: votes are '\{\}', which sum to 0"),
        ('angry;sad\t{"angry": 1}', r"row 3: 'angry;sad' are several emotions, and there are votes too"),
        ("angry;sat\t", r"row 3: bad emotion 'sat'.*sad"),
    ],
)
def test_bad_votes_are_named_with_their_row(tmp_path: Path, cells: str, message: str) -> None:
    with pytest.raises(CorpusError, match=r"(?s)mine\.tsv'?, " + message):
        read_rows(tmp_path, HEADER, "a\ts1\tsad\t", f"b\ts1\t{cells}")


def test_a_list_of_emotions_is_one_vote_for_each_and_a_tie_has_no_label(tmp_path: Path) -> None:
    corpus = read_rows(
        tmp_path, HEADER, "a\ts1\tangry;sad\t", "b\ts1\tangry; sad;angry\t", "c\ts1\tSad\t", "d\ts1\t\t"
    )
    assert [item.emotion for item in corpus] == [None, "angry", "sad", None]
    assert [item.vote_counts() for item in corpus] == [
        {"angry": 1, "sad": 1}, {"angry": 2, "sad": 1}, {}, {},
    ]  # fmt: skip


def test_without_a_column_of_emotions_the_votes_give_the_label(tmp_path: Path) -> None:
    corpus = read_rows(
        tmp_path, "id\tspeaker\tvotes", 'a\ts1\t{"sad": 2, "angry": 1.5}', 'b\ts1\t{"sad": 1, "angry": 1}'
    )
    assert [item.emotion for item in corpus] == ["sad", None]
    corpus = read_rows(tmp_path, HEADER, 'a\ts1\t\t{"sad": 2, "angry": 1}')
    assert corpus.utterances[0].emotion is None  # the file states that the utterance has none


def test_votes_are_renamed_like_emotions(tmp_path: Path) -> None:
    names = {"anger": "angry", "unclear": "-", "other": "-", "joy": "happy"}
    corpus = read_rows(
        tmp_path, HEADER, 'a\ts1\tanger\t{"anger": 2, "Angry": 1, "unclear": 3, "other": 1}',
        'b\ts1\tjoy\t{"unclear": 3}', emotions=names,
    )  # fmt: skip
    assert corpus.utterances[0].vote_counts() == {"angry": 3, "other": 1}
    assert corpus.utterances[1].votes is None


def test_an_utterance_whose_most_frequent_vote_is_left_out_is_left_out(tmp_path: Path) -> None:
    names = {"surprised": "-", "unclear": "-"}
    rows = (
        'a\ts1\t{"surprised": 3, "angry": 1}', 'b\ts1\t{"unclear": 2, "angry": 1}',
        'c\ts1\t{"surprised": 2, "unclear": 2, "angry": 3}', 'd\ts1\t{"unclear": 1, "angry": 1}',
    )  # fmt: skip
    corpus = read_rows(tmp_path, "id\tspeaker\tvotes", *rows, emotions=names)
    assert [(item.id, item.emotion) for item in corpus] == [("c", "angry"), ("d", None)]
    assert corpus.dropped == {"emotion with most votes": 2}
    kept = read_rows(tmp_path, "id\tspeaker\tvotes", *rows, emotions=names, keep_left_out=True)
    assert [item.emotion for item in kept] == [None, None, "angry", None]


def test_votes_survive_a_manifest(tmp_path: Path) -> None:
    corpus = Corpus(
        "mine",
        (voted("a", None, {"angry": 1, "sad": 1}), voted("b", "sad", {"sad": 0.5}), voted("c", "sad", None)),
    )
    write_manifest(corpus, tmp_path / "mine.csv")
    again = read_manifest(tmp_path / "mine.csv")
    assert [(u.emotion, u.votes) for u in again] == [(u.emotion, u.votes) for u in corpus]


@given(st.dictionaries(st.sampled_from(["angry", "sad", "happy"]), st.integers(1, 5), min_size=1))
def test_the_label_is_the_most_frequent_vote(votes: dict[str, float]) -> None:
    winners = [name for name, count in votes.items() if count == max(votes.values())]
    assert most_frequent(votes) == (winners[0] if len(winners) == 1 else None)
    shares = vote_distribution(votes, LABELS)
    assert shares is not None
    assert sum(shares) == pytest.approx(1)


def test_relabel_keeps_utterances_with_votes_alone_where_asked() -> None:
    corpus = Corpus(
        "mine", (voted("a", None, {"excited": 1, "happy": 1}), voted("b", "sad"), voted("c", None))
    )
    merge = LabelMap("merge", {"excited": "happy"})
    kept = corpus.relabel(merge, keep_voted=True)
    assert [(item.id, item.vote_counts()) for item in kept] == [("a", {"happy": 2}), ("b", {})]
    assert kept.dropped == {"no emotion": 1}
    assert [item.id for item in corpus.relabel(merge)] == ["b"]


# --- targets of a training -------------------------------------------------------------------------


def test_votes_outside_of_the_label_set_are_left_out() -> None:
    utterances = [
        voted("a", "angry", {"angry": 1, "sad": 2, "bored": 5}),
        voted("b", "angry", {"bored": 5}),
        voted("c", "happy"),
    ]
    shares = vote_shares(utterances, LABELS)
    assert shares is not None
    torch.testing.assert_close(shares[0], torch.tensor([1 / 3, 0, 2 / 3]))
    assert shares[1:].isnan().all()
    assert vote_shares(utterances[1:], LABELS) is None


def test_utterances_with_votes_alone_weigh_as_much_as_others() -> None:
    utterances = [voted("a", None, {"sad": 1}), voted("b", "angry"), voted("c", None), voted("d", "happy")]
    votes = vote_shares(utterances, LABELS)
    assert label_weights(utterances, 0, votes) == pytest.approx(torch.tensor([1.0, 1, 0, 1]))
    assert label_weights(utterances, 0) == pytest.approx(torch.tensor([0.0, 1, 0, 1]))
    assert label_weights(utterances[:2], 0, vote_shares(utterances[:2], LABELS)) is None


def test_an_emotion_with_votes_is_possible_in_its_corpus() -> None:
    utterances = [
        voted("a", "angry", {"sad": 1, "angry": 2}, corpus="x"), voted("b", "happy", corpus="y"),
        voted("c", "sad", corpus="y"),
    ]  # fmt: skip
    possible = possible_emotions(utterances, LABELS, vote_shares(utterances, LABELS))
    assert possible is not None
    assert possible.tolist() == [[True, False, True], [False, True, True], [False, True, True]]


def test_class_weights_count_votes() -> None:
    utterances = [voted("a", "angry", {"angry": 3, "sad": 1}), voted("b", "sad")]
    votes, labels = vote_shares(utterances, LABELS), label_indices(utterances, LABELS)
    found = inverse_frequencies(labels, 3, None, votes)
    assert found == pytest.approx(torch.tensor([2 / 0.75 / 2, 0, 2 / 1.25 / 2]))
    one_hot = torch.eye(3)[labels]
    assert torch.equal(
        inverse_frequencies(labels, 3, None, one_hot), inverse_frequencies(labels, 3, None, None)
    )


# --- the loss -------------------------------------------------------------------------------------


def tensors(seed: int) -> tuple[Tensor, Tensor, HardLabels]:
    """Logits (4, 3), shares of votes (4, 3), and hard labels with everything that changes their loss."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(4, 3)))
    labels = torch.from_numpy(rng.integers(0, 3, 4))
    possible = torch.from_numpy(rng.random((4, 3)) < 0.7)
    possible[torch.arange(4), labels] = True
    shares = torch.from_numpy(rng.dirichlet([0.5] * 3, 4))
    class_weights, weights = torch.from_numpy(rng.random(3) + 0.1), torch.from_numpy(rng.random(4))
    return logits, shares, HardLabels(labels, class_weights, float(rng.random() * 0.5), possible, weights)


OFF = [(), ("class_weights",), ("smoothing",), ("possible",), ("weights",), ("possible", "weights")]
NOTHING = {"class_weights": None, "smoothing": 0.0, "possible": None, "weights": None}


@given(seed=st.integers(0, 10_000), off=st.sampled_from(OFF))
@settings(max_examples=60)
def test_votes_for_one_emotion_give_the_loss_of_the_label(seed: int, off: tuple[str, ...]) -> None:
    logits, _, hard = tensors(seed)
    hard = hard._replace(**{name: NOTHING[name] for name in off})
    one_hot = torch.eye(3, dtype=torch.float64)[hard.labels]
    of_label = hard_label_loss(logits, *hard)
    torch.testing.assert_close(hard_label_loss(logits, *hard._replace(votes=one_hot)), of_label)
    nothing = torch.full_like(one_hot, float("nan"))  # then the label counts
    torch.testing.assert_close(hard_label_loss(logits, *hard._replace(votes=nothing)), of_label)


@given(seed=st.integers(0, 10_000), weighted=st.booleans(), smoothing=st.sampled_from([0.0, 0.2]))
@settings(max_examples=60)
def test_each_vote_counts_as_an_utterance_with_that_label(
    seed: int, weighted: bool, smoothing: float
) -> None:
    logits, _, hard = tensors(seed)
    counts = torch.from_numpy(np.random.default_rng(seed).multinomial(5, [0.3, 0.3, 0.4], size=4))
    class_weights = hard.class_weights if weighted else None
    found = hard_label_loss(logits, hard.labels, class_weights, smoothing, votes=counts / 5.0)
    rows, chosen = zip(
        *((row, label) for row in range(4) for label in range(3) for _ in range(int(counts[row, label]))),
        strict=True,
    )
    expected = hard_label_loss(logits[list(rows)], torch.tensor(chosen), class_weights, smoothing)
    torch.testing.assert_close(found, expected, check_dtype=False)


@given(seed=st.integers(0, 10_000), off=st.sampled_from(OFF))
@settings(max_examples=60)
def test_cross_entropy_and_divergence_have_the_same_gradient(seed: int, off: tuple[str, ...]) -> None:
    logits, shares, hard = tensors(seed)
    hard = hard._replace(**{name: NOTHING[name] for name in off})
    if hard.possible is not None:
        shares = shares * hard.possible / (shares * hard.possible).sum(dim=1, keepdim=True)
    gradients = []
    for kind in ("cross-entropy", "kl"):
        own = logits.clone().requires_grad_()
        loss = hard_label_loss(own, *hard._replace(votes=shares, vote_loss=kind))
        loss.backward()
        gradients.append(own.grad)
    torch.testing.assert_close(*gradients)
    assert loss >= -1e-9


def test_the_losses_by_hand() -> None:
    shares = torch.tensor([[0.75, 0.25]])
    logits = torch.log(torch.tensor([[0.5, 0.5]]))
    labels = torch.tensor([0])
    assert hard_label_loss(logits, labels, votes=shares).item() == pytest.approx(np.log(2))
    divergence = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert hard_label_loss(logits, labels, votes=shares, vote_loss="kl").item() == pytest.approx(divergence)
    perfect = hard_label_loss(torch.log(shares), labels, votes=shares, vote_loss="kl")
    assert perfect.item() == pytest.approx(0, abs=1e-7)
    # Weights 1 and 3: (0.75 · 1 + 0.25 · 3) ln 2 over the same weight.
    weighted = hard_label_loss(logits, labels, torch.tensor([1.0, 3.0]), votes=shares)
    assert weighted.item() == pytest.approx(np.log(2))
