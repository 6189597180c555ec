"""The optional packages that a recipe needs. This module imports no torch."""

from importlib.util import find_spec

from emodistill.config import Recipe
from emodistill.errors import MissingExtraError


def check_packages(recipe: Recipe) -> None:
    """Raise `MissingExtraError` where the recipe needs an optional package that is not installed."""
    students = {"student": recipe.student, "acoustic.student": recipe.acoustic.student}
    needed = {
        f"{name}.lora = {student.lora}": ("peft", "lora")
        for name, student in students.items()
        if student is not None and student.lora
    }
    logger = recipe.runtime.logger
    if logger is not None:
        needed[f"runtime.logger = '{logger}'"] = (logger, logger)
    for what, (package, extra) in needed.items():
        if find_spec(package) is None:
            raise MissingExtraError(package, extra, what)
