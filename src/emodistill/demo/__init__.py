"""The demo corpus: synthetic emotional speech that ships with the package."""

from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
