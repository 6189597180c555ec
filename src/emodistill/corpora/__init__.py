"""One small file per corpus: a folder on disk becomes a `Corpus`. No training policy lives here."""

from collections.abc import Callable, Mapping
from pathlib import Path

from emodistill.corpora import (
    ased,
    crema_d,
    emobox,
    emodb,
    emorynlp,
    emovo,
    esd,
    iemocap,
    jl_corpus,
    meld,
    msp_podcast,
    nemo,
    ravdess,
    savee,
    shemo,
    tess,
    urdu,
)
from emodistill.corpora.base import Corpus, Utterance, drop_bad_audio, read_manifest, write_manifest
from emodistill.errors import CorpusError, one_of
from emodistill.labels import EMOTIONS, LabelMap, label_map

__all__ = [
    "READERS", "Corpus", "Utterance", "drop_bad_audio", "read_corpus", "read_manifest", "write_manifest",
]  # fmt: skip

READERS: dict[str, Callable[[Path], Corpus]] = {
    "ased": ased.read,
    "crema-d": crema_d.read,
    "crema-d-perceived": crema_d.read_perceived,
    "emobox": emobox.read,
    "emodb": emodb.read,
    "emorynlp": emorynlp.read,
    "emovo": emovo.read,
    "esd": esd.read,
    "iemocap": iemocap.read,
    "jl-corpus": jl_corpus.read,
    "meld": meld.read,
    "msp-podcast": msp_podcast.read,
    "nemo": nemo.read,
    "ravdess": ravdess.read,
    "savee": savee.read,
    "shemo": shemo.read,
    "tess": tess.read,
    "urdu": urdu.read,
}

# Every corpus keeps its own classes unless it is listed here.
_DEFAULT_LABELS = {"iemocap": "iemocap-4"}


def read_corpus(
    name: str, root: Path, labels: str | None = None, emotions: Mapping[str, str] | None = None
) -> Corpus:
    """Read a corpus from its distribution folder and apply a label map.

    `labels` is the name of a map in `emodistill.labels`, a list such as "angry,sad", or "all", which
    keeps even utterances without an agreed emotion. `emotions` says before that what some of the corpus's emotions
    count as. Raises `CorpusError` for an unknown corpus or emotion.
    """
    if name not in READERS:
        raise CorpusError(one_of("corpus", name, READERS))
    corpus = READERS[name](Path(root))
    for emotion in [*(emotions or {}), *(emotions or {}).values()]:
        if emotion not in EMOTIONS:
            raise CorpusError("corpus.emotions: " + one_of("emotion", emotion, EMOTIONS))
    if emotions:
        corpus = corpus.relabel(LabelMap("declared", emotions))
    chosen = labels or _DEFAULT_LABELS.get(name, "own")
    return corpus if chosen == "all" else corpus.relabel(label_map(chosen))
