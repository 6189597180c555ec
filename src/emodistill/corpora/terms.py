"""Under which terms a corpus is given, and where; as `docs/corpora.md` has it, for the cards of models."""

from collections import Counter
from collections.abc import Iterable, Mapping

from emodistill.corpora.base import Utterance
from emodistill.inference.model_card import DataSource

# Name -> licence as its authors state it, and where they do.
_TERMS = {
    "ased": ("none stated", "https://github.com/wgwangang/ASED_V1"),
    "crema-d": ("ODbL 1.0", "https://github.com/CheyneyComputerScience/CREMA-D"),
    "crema-d-perceived": ("ODbL 1.0", "https://github.com/CheyneyComputerScience/CREMA-D"),
    "demo": ("Apache-2.0", None),
    "emodb": ("none stated", "http://emodb.bilderbar.info"),
    "emorynlp": ("GPL-3.0 (repository)", "https://github.com/emorynlp/emotion-detection"),
    "emovo": ("none stated", "http://voice.fub.it/activities/corpora/emovo"),
    "esd": ("research, signed form", "https://github.com/HLTSingapore/Emotional-Speech-Data"),
    "iemocap": ("signed form", "https://sail.usc.edu/iemocap"),
    "jl-corpus": ("CC0 1.0", "https://www.kaggle.com/datasets/tli725/jl-corpus"),
    "meld": ("GPL-3.0 (repository)", "https://affective-meld.github.io"),
    "msp-podcast": (
        "signed licence",
        "https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html",
    ),
    "nemo": ("CC BY-NC-SA 4.0", "https://github.com/amu-cai/nEMO"),
    "ravdess": ("CC BY-NC-SA 4.0", "https://doi.org/10.5281/zenodo.1188976"),
    "savee": ("research, registration", "http://kahlan.eps.surrey.ac.uk/savee"),
    "shemo": ("academic", "https://github.com/mansourehk/ShEMO"),
    "tess": ("CC BY-NC 4.0 by its mirrors", "https://doi.org/10.5683/SP2/E8H2MF"),
    "urdu": ("research", "https://github.com/siddiquelatif/urdu-dataset"),
}


def data_sources(splits: Mapping[str, Iterable[Utterance]], default: str) -> tuple[DataSource, ...]:
    """The corpora of a fold's utterances, with their terms and how many each split has of them.

    `default` names the corpus of utterances that do not say. The language is left out where a corpus has several.
    """
    counts: dict[str, Counter[str]] = {}
    languages: dict[str, set[str | None]] = {}
    for split, utterances in splits.items():
        for utterance in utterances:
            name = utterance.corpus or default
            counts.setdefault(name, Counter())[split] += 1
            languages.setdefault(name, set()).add(utterance.language)
    found = []
    for name, by_split in counts.items():
        licence, url = _TERMS.get(name, ("not stated", None))
        language = languages[name].pop() if len(languages[name]) == 1 else None
        found.append(
            DataSource(name=name, licence=licence, language=language, utterances=dict(by_split), url=url)
        )
    return tuple(found)
