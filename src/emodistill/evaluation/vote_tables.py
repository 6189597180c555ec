"""Scores against listeners' votes as tables on the terminal, and their notes for the report."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.evaluation.vote_scores import VOTE_TITLES, ModelVotes, VoteScores


def vote_rows(scores: VoteScores) -> list[list[str]]:
    """The cells of a row for each model, and for the main model after temperature scaling.

    Temperatures are fitted on dev, once to the labels and once to the votes.
    """

    def cells(title: str, model: ModelVotes) -> list[str]:
        return [title, *(model.figures[name].text(1, 3) for name in VOTE_TITLES)]

    rows = [cells(model.model, model) for model in scores.models]
    for place, (how, model) in enumerate(
        (("after scaling", scores.scaled), ("scaled to the votes of dev", scores.fitted)), start=1
    ):
        if model is not None:
            rows.insert(place, cells(f"{model.model}, {how}", model))
    return rows


def vote_notes(scores: VoteScores) -> list[str]:
    """How to read the scores against votes, and the distance of listeners from listeners."""
    notes = [
        f"{scores.num_utterances} utterances have votes for the model's emotions, {scores.votes_each:.1f} "
        f"each. Lower is better. The entropy of the votes is {scores.entropy.text(1, 3)} nats: no model has "
        "a lower cross entropy. JS: Jensen-Shannon distance, from 0 to 1. Calibration error: mean gap "
        "between probability and share of the votes, over all emotions, in bins of probability."
    ]
    halves = scores.halves
    if halves is not None:
        notes.append(
            "Listeners against listeners: one random half of the votes "
            f"({halves.votes_each:.1f} each) is predicted by the other half, and by the model. Cross "
            f"entropy: {halves.listeners_cross_entropy.text(1, 3)} by listeners, "
            f"{halves.model_cross_entropy.text(1, 3)} by the model. JS distance: "
            f"{halves.listeners.text(1, 3)} by listeners, {halves.model.text(1, 3)} by the model. Halves are "
            "small, so all four contain chance. JS prefers sparse predictions there: compare models by cross "
            "entropy or KL."
        )
    return notes


def show_votes(scores: VoteScores, to: Console) -> None:
    """Print the scores against votes, the bins of the calibration, and listeners against listeners."""
    table = Table("model", title="against the listeners' votes")
    for title in VOTE_TITLES.values():
        table.add_column(title, justify="right")
    for row in vote_rows(scores):
        table.add_row(*map(escape, row))
    table.caption = "\n".join(vote_notes(scores))
    to.print(table)
    bins = Table("probability", title=f"{escape(scores.models[0].model)}: calibration against the votes")
    for title in ("pairs", "mean probability", "mean share of votes"):
        bins.add_column(title, justify="right")
    for item in scores.models[0].bins:
        bins.add_row(
            f"{item.low:.1f} – {item.high:.1f}", str(item.num_pairs), f"{item.probability:.3f}",
            f"{item.share:.3f}",
        )  # fmt: skip
    bins.caption = "A pair is an utterance and an emotion."
    to.print(bins)
