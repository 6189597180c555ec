"""Values that a command line states as text, in the notation of TOML."""

from typing import Any

from emodistill.reading import parse_toml


def toml_value(text: str) -> Any:
    """Return the value of a text such as `0.5`, `true` or `[1, 2]`. What is not TOML is text."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text.strip()


def toml_list(text: str) -> list[Any]:
    """Return the values of a text such as `1,2` or `cosine,mse`, each as `toml_value` does."""
    try:
        return list(parse_toml(f"values = [{text}]")["values"])
    except ValueError:
        return [toml_value(part) for part in text.split(",")]
