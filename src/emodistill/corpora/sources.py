"""Which corpora a fold's utterances come from, with licence and address, for the card of a model."""

from collections import Counter
from collections.abc import Iterable, Mapping

from emodistill.corpora.base import Utterance
from emodistill.corpora.readers import READERS
from emodistill.inference.model_card import DataSource


def data_sources(splits: Mapping[str, Iterable[Utterance]], default: str) -> tuple[DataSource, ...]:
    """Return the corpora of a fold's utterances, with licences and the number of utterances in each split.

    `default` names the corpus of utterances that have no `corpus`. A corpus with several languages has no
    language in the result. A corpus without a reader has the licence "not stated".
    """
    counts: dict[str, Counter[str]] = {}
    languages: dict[str, set[str | None]] = {}
    for split, utterances in splits.items():
        for utterance in utterances:
            name = utterance.corpus or default
            counts.setdefault(name, Counter())[split] += 1
            languages.setdefault(name, set()).add(utterance.language)
    sources = []
    for name, by_split in counts.items():
        reader = READERS.get(name)
        sources.append(
            DataSource(
                name=name,
                licence=reader.licence if reader else "not stated",
                language=languages[name].pop() if len(languages[name]) == 1 else None,
                utterances=dict(by_split),
                url=reader.url if reader else None,
            )
        )
    return tuple(sources)
