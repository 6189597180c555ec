"""One file per corpus: the folder that its authors distribute becomes a `Corpus`."""

from collections.abc import Callable
from pathlib import Path

from emodistill.corpora.base import Corpus
from emodistill.corpora.readers import (
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
