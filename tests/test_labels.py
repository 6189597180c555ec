"""Label sets and their order; label maps, which merge and drop emotions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emodistill.errors import ConfigError
from emodistill.labels import EMOTIONS, LABEL_MAPS, LabelSet, get_label_map


def test_the_emotions_are_those_that_other_programs_rely_on() -> None:
    assert " ".join(EMOTIONS) == (
        "angry happy sad neutral fearful disgusted surprised calm bored excited frustrated contempt other"
    )


@given(st.sets(st.sampled_from(EMOTIONS), min_size=1))
def test_a_label_set_has_the_canonical_order(names: set[str]) -> None:
    labels = LabelSet.from_emotions(names)
    assert list(labels) == [name for name in EMOTIONS if name in names]
    assert LabelSet.from_emotions(reversed(labels.names)) == labels
    assert [labels.index(name) for name in labels] == list(range(len(labels)))


def test_label_sets_refuse_unknown_and_repeated_emotions() -> None:
    with pytest.raises(ConfigError, match=r"bad emotion 'angri', expected one of .*did you mean 'angry'"):
        LabelSet(("angri",))
    with pytest.raises(ConfigError, match="bad emotion 'hapy'"):
        LabelSet.from_emotions(["hapy", "sad"])
    with pytest.raises(ConfigError, match=r"bad label set \['sad', 'sad'\]: an emotion is listed twice"):
        LabelSet(("sad", "sad"))
    with pytest.raises(ConfigError, match=r"bad emotion 'calm', expected one of \['sad'\]"):
        LabelSet(("sad",)).index("calm")


@pytest.mark.parametrize(
    ("name", "emotion", "expected"),
    [
        ("own", "contempt", "contempt"), ("own", None, None),
        ("iemocap-4", "excited", "happy"), ("iemocap-4", "frustrated", None), ("iemocap-4", "angry", "angry"),
        ("iemocap-4", "calm", None), ("four", "calm", "neutral"), ("four", "fearful", None),
        ("seven", "fearful", "fearful"), ("seven", "bored", None), ("angry, sad", "sad", "sad"),
        ("angry,sad", "happy", None), ("angry,sad", None, None),
    ],
)  # fmt: skip
def test_label_maps_merge_and_drop_emotions(name: str, emotion: str | None, expected: str | None) -> None:
    assert get_label_map(name).apply(emotion) == expected


def test_label_maps_keep_the_emotions_that_they_merge_into() -> None:
    for label_map in LABEL_MAPS.values():
        for source, target in label_map.merges.items():
            assert {source, target} <= set(EMOTIONS)
            assert label_map.apply(source) == target


def test_unknown_label_maps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bad label map 'iemocap4'.*did you mean 'iemocap-4'.*'angry,sad'"):
        get_label_map("iemocap4")
    with pytest.raises(ConfigError, match="bad emotion 'sadd'"):
        get_label_map("angry,sadd")
