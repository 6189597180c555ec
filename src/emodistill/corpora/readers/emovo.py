"""EMOVO, acted emotional speech in Italian.

Layout: folders `f1`, `f2`, `f3`, `m1`, `m2`, `m3` with files such as `f1/dis-f1-b1.wav`. The parts of a name
are emotion, actor and sentence.

Counts: 84 utterances of each emotion: angry, happy, sad, neutral, fearful, disgusted, surprised.

Quirks: Six actors speak 14 sentences once in each emotion, so words tell nothing about the emotion. The
sentences n1 to n5 make no sense on purpose. No licence is stated: use it for research and cite the paper. The
sentences are from EmoBox's script.
"""

from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {
    "dis": "disgusted", "gio": "happy", "neu": "neutral", "pau": "fearful",
    "rab": "angry", "sor": "surprised", "tri": "sad",
}  # fmt: skip
_GENDERS = {"f": "female", "m": "male"}
_SENTENCES = {
    "b1": "Gli operai si alzano presto.",
    "b2": "I vigili sono muniti di pistola.",
    "b3": "La cascata fa molto rumore.",
    "l1": "L'autunno prossimo Tony partirà per la Spagna: nella prima metà di ottobre.",
    "l2": "Ora prendo la felpa di là ed esco per fare una passeggiata.",
    "l3": "Un attimo dopo s'è incamminato... ed è inciampato.",
    "l4": "Vorrei il numero telefonico del Signor Piatti.",
    "n1": "La casa forte vuole col pane.",
    "n2": "La forza trova il passo e l'aglio rosso.",
    "n3": "Il gatto sta scorrendo nella pera.",
    "n4": "Insalata pastasciutta coscia d'agnello limoncello.",
    "n5": "Uno quarantatré dieci mille cinquantasette venti.",
    "d1": "Sabato sera cosa farà?",
    "d2": "Porti con te quella cosa?",
}


def read(root: Path) -> Corpus:
    """Read the folder that holds `f1` … `m3`."""
    root = check_root(root, "emovo", "folders f1, f2, f3, m1, m2, m3", "[fFmM][123]/*")
    utterances: list[Utterance] = []
    for stem, path in audio_files(root, "[fFmM][123]/*").items():
        parts = stem.lower().split("-")
        if len(parts) != 3 or parts[0] not in _EMOTIONS or parts[2] not in _SENTENCES:
            raise CorpusError(
                f"emovo: '{path}' is not named emotion-actor-sentence as in dis-f1-b1: expected an "
                f"emotion of {list(_EMOTIONS)} and a sentence of {list(_SENTENCES)}"
            )
        emotion, actor, sentence = parts
        utterances.append(
            Utterance(
                id=stem,
                path=path,
                speaker=actor,
                gender=_GENDERS.get(actor[0]),
                language="it",
                emotion=_EMOTIONS[emotion],
                transcript=_SENTENCES[sentence],
                transcript_source="gold",
                corpus="emovo",
            )
        )
    return Corpus("emovo", tuple(utterances))


EMOVO = Reader(
    name="emovo",
    read=read,
    languages={"it": "Italian"},
    licence="none stated",
    url="http://voice.fub.it/activities/corpora/emovo",
    citation=Citation(
        "costantini2014emovo",
        "inproceedings",
        author="Costantini, Giovanni and Iaderola, Iacopo and Paoloni, Andrea and Todisco, Massimiliano",
        title="{EMOVO} Corpus: an {Italian} Emotional Speech Database",
        year=2014,
        booktitle="International Conference on Language Resources and Evaluation (LREC)",
        pages="3501--3504",
        url="https://aclanthology.org/L14-1478",
    ),
    utterances="588",
    speakers="6",
    emotions="7",
    tested_on="real corpus",
)
