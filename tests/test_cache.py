"""The cache folder: what it holds, how it is cleaned, and what a training says about it."""

import json
import os
import re
import time
from pathlib import Path

import factories as make
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emodistill.cached_files import (
    COMPUTED,
    KINDS,
    MARK_EVERY_S,
    cache_use,
    cached_items,
    clean_cache,
    parse_age,
)
from emodistill.errors import ConfigError
from emodistill.features.cache import ArrayCache
from emodistill.files import format_bytes
from emodistill.training.cross_validation import crossval

DAY_S = 24 * 3600


def write_old(path: Path, age_s: float, size: int = 1000) -> Path:
    """A file that was last used so many seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    used = time.time() - age_s
    os.utime(path, (used, used))
    return path


def size_in_words(text: str) -> float:
    """The bytes of a size such as 1.6 GB."""
    number, unit = text.split()
    return float(number) * {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


@given(number=st.integers(0, 10**6 - 1), unit=st.sampled_from("hdw"))
def test_an_age_is_a_number_and_a_unit(number: int, unit: str) -> None:
    assert parse_age(f"{number}{unit}") == number * {"h": 3600, "d": DAY_S, "w": 7 * DAY_S}[unit]


@pytest.mark.parametrize(
    "age", ["", "30", "d", "-1d", "1.5d", "30 days", "1d2h", "٣d", "1e3d", "inf d", "3m"]
)
def test_a_bad_age_is_refused_before_anything_is_deleted(
    age: str, own_cache: Path, emodistill: make.CommandLine
) -> None:
    old = write_old(own_cache / "states/ab/ab.npy", 99 * DAY_S)
    done = emodistill("cache", "clean", f"--older-than={age}")
    assert done.code == 2
    assert f"bad --older-than '{age}', expected a whole number and a unit" in done.err
    assert old.is_file()


@given(ages=st.lists(st.floats(0, 1000), max_size=12), limit=st.integers(0, 1000))
def test_exactly_what_is_older_is_deleted(
    ages: list[float], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    margin = [age for age in ages if abs(age - limit) > 0.01]
    files = {write_old(folder / f"llds/{place}/a.npy", age * DAY_S): age for place, age in enumerate(margin)}
    would = clean_cache(folder, limit * DAY_S, dry_run=True)
    assert all(path.is_file() for path in files)
    assert clean_cache(folder, limit * DAY_S) == would
    assert {path for path in files if path.is_file()} == {path for path, age in files.items() if age < limit}
    assert would.num_files == sum(age > limit for age in margin)
    assert would.size_bytes == 1000 * would.num_files


def test_a_clean_deletes_arrays_alone_and_models_only_if_they_are_named(own_cache: Path) -> None:
    array = write_old(own_cache / "states/ab/ab.npy", 40 * DAY_S)
    model = write_old(own_cache / "models/large-123/weights.bin", 40 * DAY_S, 5000)
    write_old(model.with_name("card.json"), 2 * DAY_S)
    others = [
        write_old(own_cache / name, 40 * DAY_S) for name in ("notes.txt", "states/mine.txt", "own/a.npy")
    ]
    assert clean_cache(own_cache, 30 * DAY_S).num_files == 1
    assert not array.exists()
    assert clean_cache(own_cache, 30 * DAY_S, ["models"]).num_files == 0, "its card was used two days ago"
    cleaned = clean_cache(own_cache, DAY_S, ["models"])
    assert (cleaned.num_files, cleaned.size_bytes) == (2, 6000)
    assert not list((own_cache / "models").iterdir())
    assert all(path.is_file() for path in others)


def test_a_link_in_the_cache_is_not_followed(own_cache: Path, tmp_path: Path) -> None:
    target = write_old(tmp_path / "elsewhere/a.npy", 99 * DAY_S)
    (own_cache / "states").mkdir(parents=True)
    (own_cache / "states/linked").symlink_to(target.parent)
    (own_cache / "models").symlink_to(target.parent)
    clean_cache(own_cache, 0, list(KINDS))
    assert target.is_file()


def test_a_partial_file_stays_while_it_may_be_written(own_cache: Path) -> None:
    young = write_old(own_cache / "states/ab/.ab.123.partial.npy", 3600)
    old = write_old(own_cache / "states/ab/.cd.123.partial.npy", 2 * DAY_S)
    clean_cache(own_cache, 0)
    assert young.is_file()
    assert not old.exists()


def test_reading_an_array_or_asking_for_it_is_a_use(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "states")
    for key in ("read", "asked", "neither"):
        cache.write(key, np.zeros(3))
        write_time = time.time() - 50 * DAY_S
        os.utime(cache.path(key), (write_time, write_time))
    cache.read("read")
    assert "asked" in cache
    clean_cache(tmp_path, DAY_S)
    assert [cache.path(key).is_file() for key in ("read", "asked", "neither")] == [True, True, False]
    recent = time.time() - MARK_EVERY_S / 2
    os.utime(cache.path("read"), (recent, recent))
    cache.read("read")
    assert cache.path("read").stat().st_mtime == pytest.approx(recent, abs=1), "marked once an hour at most"


def test_an_array_that_vanishes_or_is_damaged_is_a_clear_error(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    cache.write("abc", np.arange(100.0))
    whole = cache.path("abc").read_bytes()
    for cut in (0, 5, 100, len(whole) - 1):
        cache.path("abc").write_bytes(whole[:cut])
        with pytest.raises(OSError, match=r"is damaged .*: delete it; run the same command again.*abc\.npy"):
            cache.read("abc")
    cache.path("abc").unlink()
    with pytest.raises(FileNotFoundError, match=r"no longer in the cache; run the same command again.*abc"):
        cache.read("abc")


def test_the_verb_shows_where_the_cache_is_and_its_size_by_kind(
    own_cache: Path, emodistill: make.CommandLine
) -> None:
    empty = emodistill("cache")
    assert empty.code == 0
    assert f"{own_cache}: 0 bytes" in empty.out
    write_old(own_cache / "states/ab/ab.npy", 40 * DAY_S, 3_000_000)
    write_old(own_cache / "states/cd/cd.npy", 2 * DAY_S, 500_000)
    write_old(own_cache / "models/large-1/card.json", 0, 700)
    write_old(own_cache / "future/x.bin", 0, 300)
    shown = emodistill("cache")
    assert shown.code == 0
    assert str(own_cache) in shown.out
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() - 40 * DAY_S))
    (row,) = [line for line in shown.out.splitlines() if line.startswith("│ states")]
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["2", "3.5 MB", day]
    data = json.loads(emodistill("cache", "--format", "json").out)
    assert data["folder"] == str(own_cache)
    assert data["size_bytes"] == 3_501_000
    assert [kind["kind"] for kind in data["kinds"]] == [*KINDS, "future"]
    assert data["kinds"][0] == {
        "kind": "llds", "num_files": 0, "size_bytes": 0, "oldest_use": None, "newest_use": None,
    }  # fmt: skip


def test_the_verb_cleans_by_age_and_kind(own_cache: Path, emodistill: make.CommandLine) -> None:
    for kind in COMPUTED:
        write_old(own_cache / kind / "ab/ab.npy", 40 * DAY_S)
    tried = emodistill("cache", "clean", "--older-than", "30d", "--dry-run")
    assert f"{own_cache}: would delete 2 files, 2.0 kB" in tried.err
    done = emodistill("cache", "clean", "--older-than", "30d", "--kind", "states")
    assert (done.code, done.out) == (0, "")
    assert f"{own_cache}: deleted 1 file, 1.0 kB" in done.err
    assert [item.kind for item in cached_items(own_cache)] == ["llds"]
    refused = emodistill("cache", "clean", "--older-than", "30d", "--kind", "state")
    assert refused.code == 2
    assert "bad --kind 'state', expected one of ['llds', 'states', 'models'] (did you mean 'states'?)" in (
        refused.err
    )
    assert "Missing option '--older-than'" in emodistill("cache", "clean").err


def test_a_file_that_the_system_keeps_is_counted(
    own_cache: Path, emodistill: make.CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = write_old(own_cache / "llds/ab/ab.npy", 40 * DAY_S)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    done = emodistill("cache", "clean", "--older-than", "30d")
    assert done.code == 1
    assert "1 file could not be deleted" in done.err
    assert kept.is_file()


def test_a_training_says_what_it_writes_and_continues_after_a_clean(
    manifest: Path, models: dict[str, Path], own_cache: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = make.recipe(
        manifest,
        student={"backbone": str(models["whisper"]), "layers": 2, "frozen": 1},
        distillation={"teachers": []},
    )
    crossval(recipe, tmp_path / "whole", max_folds=1)
    messages = " ".join(capsys.readouterr().err.split())
    (use,) = [use for use in cache_use(own_cache) if use.num_files]
    assert use.kind == "states"
    number = r"([0-9.]+ [kM]?B|[0-9]+ bytes)"
    said = (
        rf"cache: states of \d+ inputs, about {number}, are written to '{own_cache}/states'.*? wrote {number}"
    )
    expected, written = (
        sum(map(size_in_words, sizes)) for sizes in zip(*re.findall(said, messages), strict=True)
    )
    assert written == pytest.approx(use.size_bytes, rel=0.02)
    assert expected == pytest.approx(written, rel=0.4), "headers, pauses and other speeds change it"
    read = ArrayCache.read

    def clean_in_the_middle(cache: ArrayCache, key: str) -> np.ndarray:
        monkeypatch.setattr(ArrayCache, "read", read)
        clean_cache(own_cache, 0)
        return cache.read(key)

    monkeypatch.setattr(ArrayCache, "read", clean_in_the_middle)
    with pytest.raises(FileNotFoundError, match="run the same command again"):
        crossval(recipe, tmp_path / "cleaned", max_folds=1)
    crossval(recipe, tmp_path / "cleaned", max_folds=1)
    name = "fold-1/predictions.csv"
    assert (tmp_path / "cleaned" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@given(size=st.integers(0, 10**12))
def test_a_size_for_people_is_the_size(size: int) -> None:
    assert size_in_words(format_bytes(size)) == pytest.approx(size, rel=0.06)


def test_an_unknown_kind_is_refused(own_cache: Path) -> None:
    with pytest.raises(ConfigError, match="bad --kind 'x'"):
        clean_cache(own_cache, 0, ["x"])
