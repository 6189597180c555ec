"""Demo corpus: synthetic voices, made by `emodistill.demo.generate` with espeak-ng. It comes with this
package.

Layout: `utterances.csv`, a manifest with our column names, and `audio/SPEAKER/ID.ogg`.

Counts: 10 speakers, each with 12 utterances of each emotion: angry, happy, neutral and sad.

Scale: Arousal, valence and dominance are means of four simulated raters, 1..5. They rate a known function of
the drawn prosody and of the words, with noise, so the best possible CCC is known (`scripts/demo_oracle.py`).

Quirks: Results on it show that the method runs. They say nothing about human speech. Given the emotion, words
and prosody are drawn independently, and both are noisy.
"""

from importlib.resources import files
from pathlib import Path

from emodistill.corpora.base import Corpus, Reader, check_root
from emodistill.corpora.manifest import read_manifest

DEMO_CORPUS = Path(str(files("emodistill"))) / "demo" / "corpus"


def read(root: Path) -> Corpus:
    """Read the folder that holds `utterances.csv` and `audio`."""
    root = check_root(root, "demo", "utterances.csv and a folder audio", "utterances.csv")
    return read_manifest(root / "utterances.csv", name="demo")


DEMO = Reader(
    name="demo",
    read=read,
    languages={"en": "English"},
    licence="Apache-2.0",
    url=None,
    citation="no publication: `python -m emodistill.demo.generate` makes the corpus",
    utterances="480",
    speakers="10",
    emotions="4",
    tested_on="real corpus",
    packaged=DEMO_CORPUS,
    dimensions=("arousal", "valence", "dominance"),
    scale=(1.0, 5.0),
)
