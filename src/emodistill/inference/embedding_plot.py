"""A picture of embeddings: one point for each row, in the two dimensions in which they vary most."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emodistill.files import atomic_write
from emodistill.inference.embedding import STUDENT, Embedding, matrix
from emodistill.inference.plots import check_picture, drawable
from emodistill.labels import COLOURS, EMOTIONS

MIN_POINTS = 3  # fewer show nothing
MAX_LABELS = 20  # in the legend; the rows with rarer labels share one colour
NO_LABEL, OTHER = "none", "all others"
GREY = "#b8b8b8"

Points = npt.NDArray[np.float64]


def principal_components(vectors: npt.ArrayLike) -> tuple[Points, tuple[float, float]]:
    """Return the points (rows, 2) of vectors (rows, dim), and the share of the variance on each axis.

    It is a principal component analysis: the axes are the directions of the largest variance. The sign of an
    axis is chosen so that the largest of its weights is positive. So the same vectors give the same points.
    """
    values = np.asarray(vectors, dtype=np.float64)
    values = values - values.mean(axis=0)
    variances, axes = np.linalg.eigh(values.T @ values)
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(2)])
    shares = variances[::-1][:2].clip(min=0) / max(float(variances.sum()), 1e-12)
    return values @ axes, (float(shares[0]), float(shares[1]))


def plot_embeddings(rows: Sequence[Embedding], path: Path, by_label: bool = False) -> bool:
    """Draw the student's vectors and write the picture; returns False if there are under `MIN_POINTS`.

    The colour is that of the emotion, or with `by_label` that of the row's label. Raises the errors of
    `check_picture`.
    """
    check_picture(path)
    drawn = [row for row in rows if STUDENT in row.vectors]
    if len(drawn) < MIN_POINTS:
        return False
    points, shares = principal_components(matrix(drawn, STUDENT, drawn[0].vectors[STUDENT].size))
    labels = [(row.label if by_label else row.emotion) or NO_LABEL for row in drawn]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots()
    for label, colour in _colours(labels).items():
        chosen = np.array([(one if one in _shown(labels) else OTHER) == label for one in labels])
        axes.scatter(
            points[chosen, 0], points[chosen, 1], s=36 if len(drawn) < 500 else 10, color=colour, alpha=0.8,
            linewidths=0,
            label=f"{drawable(label)} ({int(chosen.sum())})",
        )  # fmt: skip
    axes.set_xlabel(f"first principal component ({100 * shares[0]:.0f} % of the variance)")
    axes.set_ylabel(f"second principal component ({100 * shares[1]:.0f} %)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right upper", frameon=False)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)
    return True


def _shown(labels: Sequence[str]) -> list[str]:
    """Return the labels with a colour of their own: emotions in their order, then others by name."""
    names = sorted(set(labels), key=lambda name: (-labels.count(name), name))[:MAX_LABELS]
    emotions = [name for name in EMOTIONS if name in names]
    return [*emotions, *sorted(set(names) - set(emotions))]


def _colours(labels: Sequence[str]) -> dict[str, str]:
    """Return the colour of each entry of the legend."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shown = _shown(labels)
    others = [name for name in shown if name not in COLOURS and name != NO_LABEL]
    cycle = colormaps["tab20"].colors  # type: ignore[attr-defined]
    own = {name: to_hex(cycle[index % len(cycle)]) for index, name in enumerate(others)}
    colours = {name: COLOURS.get(name) or own.get(name, GREY) for name in shown}
    return {**colours, **({OTHER: GREY} if len(set(labels)) > len(shown) else {})}
