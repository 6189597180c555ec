"""Segments and predictions as data frames of pandas, with the columns of the CSV formats."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from emodistill.errors import MissingExtraError
from emodistill.inference.parquet_table import column_type, valid_text
from emodistill.inference.prediction_rows import LISTED_COLUMNS, Columns
from emodistill.inference.segment_rows import Recognised, to_table

if TYPE_CHECKING:
    import pandas

    from emodistill.inference.prediction import Prediction

# Types of pandas that can all hold a missing value, except bool, whose columns have none.
_TYPES = {"double": "float64", "bool": "bool", "int64": "Int64", "string": "string"}


def predictions_frame(
    predictions: "Iterable[Prediction]", emotions: Sequence[str] | None = None
) -> "pandas.DataFrame":
    """Return a data frame with one row for each prediction, and the columns of the CSV of `predict`.

    The probability of an emotion is in the column `p_` and its name. There is a column `voice_utterances` if
    a prediction was compared with a voice, and `id`, `start_s`, `end_s` and `speaker` if one has any of them.
    A missing value is NaN in a column of numbers, and `pandas.NA` in a column of text.

    `emotions` are the ones with a column, in this order; None: those of the predictions.

    Raises `MissingExtraError` without pandas.
    """
    rows = list(predictions)
    names = _emotions(row.probabilities for row in rows) if emotions is None else emotions
    columns = Columns(
        names,
        has_voices=any(row.voice_utterances is not None for row in rows),
        listed=any(getattr(row, name) is not None for row in rows for name in LISTED_COLUMNS),
    )
    return _frame(columns.names, [columns.values(row) for row in rows])


def segments_frame(row: Recognised, emotions: Sequence[str] | None = None) -> "pandas.DataFrame":
    """Return a data frame with one row for each segment of a timeline, as `Timeline.to_frame` does."""
    names = _emotions(part.probabilities for part in row.segments) if emotions is None else emotions
    return _frame(*to_table([row], names))


def _emotions(rows: Iterable[Iterable[str]]) -> list[str]:
    """The names in all rows, each once, in order of appearance: a row has them in the model's order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _frame(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> "pandas.DataFrame":
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError("pandas", "pandas", "a data frame") from error
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    return pandas.DataFrame(
        {
            name: pandas.Series(list(map(valid_text, column)), dtype=_TYPES[column_type(name)])
            for name, column in zip(columns, values, strict=True)
        }
    )
