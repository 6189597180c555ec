"""Label sets, their order, and what becomes of each emotion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emodistill.errors import ConfigError
from emodistill.labels import EMOTIONS, LABEL_MAPS, LabelSet, label_map


def test_the_emotions_are_those_that_other_programs_rely_on() -> None:
    assert " ".join(EMOTIONS) == (
        "angry happy sad neutral fearful disgusted surprised calm bored excited frustrated contempt other"
    )


@given(st.sets(st.sampled_from(EMOTIONS), min_size=1))
def test_a_label_set_has_the_canonical_order(names: set[str]) -> None:
    labels = LabelSet.of(names)
    assert list(labels) == [name for name in EMOTIONS if name in names]
    assert LabelSet.of(reversed(labels.names)) == labels
    assert [labels.index(name) for name in labels] == list(range(len(labels)))


def test_bad_label_sets() -> None:
    with pytest.raises(ConfigError, match=r"bad emotion 'angri', expected one of .*did you mean 'angry'"):
        LabelSet(("angri",))
    with pytest.raises(ConfigError, match="bad emotion 'hapy'"):
        LabelSet.of(["hapy", "sad"])
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
def test_label_maps(name: str, emotion: str | None, expected: str | None) -> None:
    assert label_map(name).apply(emotion) == expected


def test_label_maps_lead_to_emotions_that_are_kept() -> None:
    for made in LABEL_MAPS.values():
        for source, target in made.merges.items():
            assert {source, target} <= set(EMOTIONS)
            assert made.apply(source) == target


def test_unknown_label_maps() -> None:
    with pytest.raises(ConfigError, match=r"bad label map 'iemocap4'.*did you mean 'iemocap-4'.*'angry,sad'"):
        label_map("iemocap4")
    with pytest.raises(ConfigError, match="bad emotion 'sadd'"):
        label_map("angry,sadd")
