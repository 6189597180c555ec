"""Whether groups of speakers get as many of each answer as others do."""

from collections.abc import Sequence

from emodistill.stress.base import Answers, Cell


def fairness_cells(answers: Sequence[Answers], seed: int = 0) -> list[Cell]:
    """Return the cells of fairness, from the answers to unchanged utterances: one `Answers` a corpus."""
    return []
