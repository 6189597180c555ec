"""Lists of speakers that fix who is in which split: published folds, and the splits of the bundled models."""

from collections.abc import Mapping, Sequence

# Test speakers of each fold, by name of the list.
FIXED_FOLDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # EmoBox (Ma et al. 2024, arXiv 2406.07162), RAVDESS: actors.
    "ravdess-emobox": {
        "1": ("1", "11", "20", "21"),
        "2": ("4", "10", "12", "14"),
        "3": ("8", "9", "19", "23"),
        "4": ("3", "5", "7", "24"),
        "5": ("2", "15", "16", "18"),
        "6": ("6", "13", "17", "22"),
    },
    # arXiv 2606.03359, RAVDESS: actors. Its authors chose models on test scores: see `LIST_NOTES`.
    "ravdess-2606.03359": {
        "1": ("2", "5", "14", "15", "16"),
        "2": ("3", "6", "7", "13", "18"),
        "3": ("10", "11", "12", "19", "20"),
        "4": ("8", "17", "21", "23", "24"),
        "5": ("1", "4", "9", "22"),
    },
}

# What a reader of the scores must know about a list, by its name.
LIST_NOTES: Mapping[str, str] = {
    "ravdess-2606.03359": "The authors of these folds chose their models on test scores, so their scores are "
    "optimistic. Here dev chooses, so the same model scores lower."
}

# Test and dev speakers of each corpus that is pooled. All other speakers train.
# CREMA-D: 15 test and 15 dev actors, each 8 men and 7 women. The actors of each sex were sorted by
# `stable_seed("crema-d split", actor)`; the first ones are test, the next ones dev.
_TEST_AND_DEV: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ravdess": (
        (*FIXED_FOLDS["ravdess-emobox"]["1"], *FIXED_FOLDS["ravdess-emobox"]["4"]),
        FIXED_FOLDS["ravdess-emobox"]["2"],
    ),
    "nemo": (("WR0", "EB0"), ("TP0",)),
    "ased": (
        tuple(str(number) for number in range(53, 66)), tuple(str(number) for number in range(43, 53)),
    ),
    "crema-d": (
        ("1006", "1015", "1020", "1021", "1028", "1030", "1039", "1041", "1046", "1050", "1057", "1059",
         "1088", "1089", "1090"),
        ("1008", "1011", "1012", "1019", "1025", "1027", "1032", "1040", "1049", "1055", "1061", "1066",
         "1077", "1079", "1080"),
    ),
}  # fmt: skip


def _split_speakers(corpora: Sequence[str], unheard: str | None = None) -> Mapping[str, tuple[str, ...]]:
    """Return the test and dev speakers of pooled corpora. All speakers of the `unheard` corpus are test."""
    test: list[str] = []
    dev: list[str] = []
    for corpus in corpora:
        if corpus == unheard:
            test.append(f"{corpus}/*")
            continue
        test += [f"{corpus}/{speaker}" for speaker in _TEST_AND_DEV[corpus][0]]
        dev += [f"{corpus}/{speaker}" for speaker in _TEST_AND_DEV[corpus][1]]
    return {"test": tuple(test), "dev": tuple(dev)}


_BUNDLED = ("ravdess", "nemo", "ased")  # URDU is pooled with them, and all of its speakers train
_FIVE = (*_BUNDLED, "crema-d")

# Test and dev speakers of one fold over pooled corpora, by name of the list; all other speakers train. `*`
# stands for all speakers of a corpus.
FIXED_SPLITS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "bundled": _split_speakers(_BUNDLED),
    "bundled-unheard-ravdess": _split_speakers(_BUNDLED, "ravdess"),
    "five-corpora": _split_speakers(_FIVE),
    "five-corpora-unheard-ravdess": _split_speakers(_FIVE, "ravdess"),
    "five-corpora-unheard-nemo": _split_speakers(_FIVE, "nemo"),
    "five-corpora-unheard-crema-d": _split_speakers(_FIVE, "crema-d"),
    "crema-d": _split_speakers(("crema-d",)),
}
