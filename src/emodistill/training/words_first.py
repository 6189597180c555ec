"""The student's training on words, before its own: which recipes the two trainings have.

With `student.words_first`, the linguistic teacher teaches in a training of its own, `words`. A trunk that
learns labels at the same time learns its training voices by heart before it knows any words. The student then
starts from this model and learns from labels and from the other teachers.
"""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from emodistill.config import WORDS, Recipe
from emodistill.corpora import Utterance
from emodistill.training.artifact_cache import to_dict
from emodistill.training.stages import Stage, make_stage

TEACHER = "linguistic"


def words_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe of the first training; None where a recipe has none, or no linguistic teacher."""
    student = recipe.student
    if student is None or student.words_first is None or TEACHER not in recipe.distillation.teachers:
        return None
    first = student.words_first
    own = {"frozen": first.frozen, "optim": first.optim, "words_first": None}
    method = recipe.distillation.model_copy(update={"teachers": (TEACHER,), "gamma": 0.0, "delta": 0.0})
    return recipe.model_copy(update={"student": student.model_copy(update=own), "distillation": method})


def recipe_after_words(recipe: Recipe, model_folder: str) -> Recipe:
    """The recipe of the student's own training, which starts from the first one's model.

    The linguistic teacher and further speech have no part in it.
    """
    assert recipe.student is not None
    own = {"init": model_folder, "words_first": None}
    teachers = tuple(name for name in recipe.distillation.teachers if name != TEACHER)
    return recipe.model_copy(
        update={
            "student": recipe.student.model_copy(update=own),
            "distillation": recipe.distillation.model_copy(update={"teachers": teachers}),
        }
    )


def learned_from(stage: Stage, train: Sequence[Utterance], further: Sequence[Utterance]) -> dict[str, Any]:
    """All that decides a model beside the settings of its stage, as plain data. For a teacher, nothing."""
    if stage.name != WORDS:
        return {}
    return {
        "distillation": to_dict(stage.recipe.distillation),
        "teacher": make_stage(TEACHER, stage.recipe, stage.labels).deciding_settings(),
        "further": [(item.id, item.transcript, str(item.path)) for item in further],
        "words": [[list(map(astuple, item.words)) for item in part] for part in (train, further)],
    }
