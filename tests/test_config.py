"""Recipes: unknown keys, errors, overrides, and TOML that is read back without loss."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import factories as make
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emodistill.config import (
    AugmentConfig,
    OptimConfig,
    Recipe,
    Section,
    load_recipe,
    parse_recipe,
    recipe_toml,
    shipped_recipes,
    stable_seed,
)
from emodistill.errors import ConfigError


def round_trip(recipe: Recipe, folder: Path) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(recipe_toml(recipe), encoding="utf-8")
    return load_recipe(path)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_read_back_from_a_run_folder(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert round_trip(recipe, tmp_path) == recipe
    assert load_recipe(shipped_recipes()[name]) == recipe


def test_recipes_named_in_the_documentation_are_shipped() -> None:
    assert {"paper-iemocap", "ravdess-whisper", "demo"} <= set(shipped_recipes())


SCALARS = {
    "seed": st.integers(0, 10**9),
    "name": st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda t: t != "none"),
    "audio": st.fixed_dictionaries(
        {}, optional={"trim_db": st.none() | st.floats(1, 90), "max_s": st.floats(0.5, 60)}
    ),
    "augment": st.fixed_dictionaries(
        {},
        optional={
            "views": st.integers(0, 9),
            "noise_snr_db": st.none() | st.tuples(st.floats(-5, 5), st.floats(6, 30)),
        },
    ).filter(lambda given: given.get("views", 1) != 1 or given.get("noise_snr_db") is None),
    "corpus": st.fixed_dictionaries(
        {}, optional={"root": st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
                      "columns": st.dictionaries(
                          st.sampled_from(["id", "emotion"]), st.text("aä \\\"'#", min_size=1)),
                      "emotions": st.dictionaries(st.text("aä \\\"'#.="), st.just("sad"))}
    ),
    "student": st.fixed_dictionaries(
        {}, optional={"pool": st.sampled_from(["last", "mix"]) | st.lists(st.integers(0, 9), min_size=1),
                      "layers": st.none() | st.integers(1, 12),
                      "optim": st.fixed_dictionaries({}, optional={
                          "lr": st.floats(1e-9, 1), "patience": st.none() | st.integers(1, 9),
                          "backbone_lr": st.none() | st.floats(1e-9, 1)})}
    ),
    "linguistic": st.fixed_dictionaries(
        {}, optional={"optim": st.fixed_dictionaries(
            {}, optional={"backbone_lr": st.none() | st.floats(1e-9, 1)})}
    ),
    "acoustic": st.fixed_dictionaries(
        {}, optional={"augment": st.none() | st.just({"views": 3}), "run": st.none() | st.just("runs/x")}
    ),
    "distillation": st.fixed_dictionaries(
        {}, optional={"weights": st.dictionaries(st.sampled_from(["prosodic", "acoustic"]), st.floats(0, 3))}
    ),
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries(SCALARS))
def test_any_recipe_is_read_back_from_its_toml(data: dict[str, Any]) -> None:
    recipe = parse_recipe(data)
    assert parse_recipe(tomllib.loads(recipe_toml(recipe))) == recipe


def test_every_field_is_written_out() -> None:
    table = tomllib.loads(recipe_toml(load_recipe("ravdess-whisper")))
    assert table["student"]["optim"]["clip"] == 1.0
    assert table["student"]["optim"]["patience"] == "none"
    assert table["prosodic"]["optim"]["lr"] == 3e-3


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"studnet": {}}, r"'studnet': bad key 'studnet', expected one of \[.*did you mean 'student'\?"),
        ({"student": {"optim": {"learning": 1}}}, r"'student\.optim\.learning': bad key 'learning'"),
        ({"student": {"optim": {"epoch": 1}}}, r"did you mean 'epochs'"),
        ({"acoustic": {"augment": {"veiws": 1}}}, r"'acoustic\.augment\.veiws'.*did you mean 'views'"),
        ({"student": {"optim": {"lr": -1}}}, r"student\.optim\.lr = -1: Input should be greater than 0"),
        ({"student": {"optim": {"epochs": 0}}}, r"epochs = 0: .* greater than or equal to 1"),
        ({"protocol": {"kind": "kfold"}}, r"protocol\.kind: bad value 'kfold'.* \(did you mean 'k-fold'\?\)"),
        ({"protocol": {"allow": ["everything"]}}, r"protocol\.allow\.0: bad value 'everything'"),
        ({"protocol": {"refit": "clasifier"}}, r"\['classifier', 'true', 'false'\] .*mean 'classifier'"),
        ({"distillation": {"teachers": ["prosody"]}}, r"distillation\.teachers\.0: .* mean 'prosodic'"),
        ({"distillation": {"teachers": "prosodic"}}, r"--set 'distillation\.teachers=\[\"prosodic\"\]'"),
        ({"distillation": {"weights": {"prosdic": 1}}}, r"weights: bad value 'prosdic'.*mean 'prosodic'"),
        ({"student": {"pool": "lst"}}, r"student\.pool: .* \(did you mean 'last'\?\), or a list of whole"),
        ({"student": {"optim": {"optimizer": "adam"}}}, r"student\.optim\.optimizer: .*mean 'adamw'"),
        ({"runtime": {"precision": 64}}, r"runtime\.precision: bad value '64', expected one of \['32', 'b"),
        ({"student": {"layers": 2, "frozen": 3}}, r"frozen = 3 is more than layers = 2"),
        ({"student": {"probe": 0.5}}, r"probe needs frozen layers"),
        ({"student": {"backbone": "compact", "frozen": 1}}, r"compact is trained from nothing: frozen must"),
        ({"student": {"frozen": 1}, "augment": {"fresh": True, "gain_db": 6.0}}, r"augment\.fresh = false"),
        ({"augment": {"views": 2, "babble_snr_db": [0, 9]}}, r"augment: babble .* set augment\.fresh = true"),
        ({"augment": {"music_snr_db": [0, 9]}}, r"augment: views = 1 is the clean recording alone"),
        ({"augment": {"reverb_rt60_s": [0, 1]}}, r"augment\.reverb_rt60_s\.0 = 0: .* greater than 0"),
        ({"augment": {"speed": 0.7}}, r"augment\.speed = 0\.7: .* less than 0\.5"),
        ({"seed": "x"}, r"seed = 'x': "),
        ({"audio": 3}, r"audio = 3"),
        ({"name": None}, r"name = None"),
        ({"runtime": {"threads": 0}}, r"runtime\.threads = 0: .* greater than or equal to 1"),
        ({"corpus": {"emotions": {"anger": 1}}}, r"corpus\.emotions\.anger = 1: .* valid string"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_with_field_and_reason(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe({"name": "x", **data})


def fields_of(section: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the annotation of each field of a section and of the sections in it."""
    for name, field in section.model_fields.items():
        annotations = (field.annotation, *get_args(field.annotation))
        inner = [item for item in annotations if isinstance(item, type) and issubclass(item, Section)]
        if inner:
            yield from fields_of(inner[0], (*path, name))
        else:
            yield (*path, name), field.annotation


def choices_in(annotation: Any) -> list[str]:
    """Return the texts that a field accepts by a `Literal` in its annotation."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in choices_in(part)]


CHOICES = [(path, choices_in(annotation)) for path, annotation in fields_of(Recipe) if choices_in(annotation)]


@pytest.mark.parametrize(("path", "choices"), CHOICES, ids=[".".join(path) for path, _ in CHOICES])
def test_a_misspelt_choice_gets_the_nearest_one(path: tuple[str, ...], choices: list[str]) -> None:
    assert len(CHOICES) > 10
    is_list = path[-1] in ("teachers", "allow") or path == ("targets",)
    for choice in choices:
        wrong: Any = f"{choice}x"
        wrong = {wrong: 1.0} if path[-1] == "weights" else [wrong] if is_list else wrong
        data: dict[str, Any] = {"name": "x"}
        section = data
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = wrong
        with pytest.raises(
            ConfigError, match=rf"bad value '{choice}x', .*did you mean '{choice}'\?"
        ) as caught:
            parse_recipe(data)
        lines = [line for line in str(caught.value).splitlines() if not line.endswith(": missing")]
        assert len(lines) == 1
        assert ".".join(path) in lines[0]


@pytest.mark.parametrize("text", ["32", '"32"', "bf16", "16"])
def test_a_precision_is_a_number_or_a_text(text: str, tmp_path: Path) -> None:
    expected = text.strip('"')
    assert load_recipe("demo", [f"runtime.precision={text}"]).runtime.precision == expected
    path = tmp_path / "x.toml"
    path.write_text(f'name = "x"\n[runtime]\nprecision = {json.dumps(text) if text == "bf16" else text}\n')
    recipe = load_recipe(path)
    assert recipe.runtime.precision == expected
    assert parse_recipe(tomllib.loads(recipe_toml(recipe))) == recipe


def test_messages_contain_the_reason_alone() -> None:
    for data, message in (
        (
            {"name": "x", "student": {"layers": 2, "frozen": 3}},
            "recipe: student: frozen = 3 is more than layers = 2",
        ),
        ({"seed": 1}, "recipe: name: missing"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_recipe(data)
        assert str(caught.value) == message


def test_several_errors_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe({"student": {"frozn": 1}, "seed": []}, "my.toml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("my.toml: ") for line in lines)


def test_recipes_are_frozen() -> None:
    recipe = load_recipe("ravdess-whisper")
    with pytest.raises(ValidationError):
        recipe.seed = 3  # type: ignore[misc]


def test_unknown_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"bad recipe 'ravdess-wisper'.*did you mean 'ravdess-whisper'.*TOML"
    ):
        load_recipe("ravdess-wisper")
    path = tmp_path / "x.toml"
    path.write_text("name = ")
    with pytest.raises(ConfigError, match=r"x\.toml' is not TOML"):
        load_recipe(path)
    path.write_bytes('name = "Öl"'.encode("cp1252"))
    with pytest.raises(ConfigError, match=r"x\.toml' is not UTF-8 .*save it again as UTF-8"):
        load_recipe(path)


# --- overrides -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("seed=7", lambda r: r.seed, 7),
        ("student.optim.lr=0.5", lambda r: r.student.optim.lr, 0.5),
        ("student.optim.lr=3e-5", lambda r: r.student.optim.lr, 3e-5),
        ("protocol.refit=false", lambda r: r.protocol.refit, False),
        ("student.pool=[1, 2]", lambda r: r.student.pool, (1, 2)),
        ("student.pool=mix", lambda r: r.student.pool, "mix"),
        ('student.backbone="a b"', lambda r: r.student.backbone, "a b"),
        ("student.backbone=/models/whisper-base", lambda r: r.student.backbone, "/models/whisper-base"),
        ("student.backbone=openai/whisper-tiny", lambda r: r.student.backbone, "openai/whisper-tiny"),
        ("corpus.root=C:\\data=x", lambda r: r.corpus.root, "C:\\data=x"),
        ('distillation.teachers=["prosodic", "acoustic"]', lambda r: r.distillation.teachers,
         ("prosodic", "acoustic")),
        ("distillation.weights.prosodic=0.3", lambda r: r.distillation.weights, {"prosodic": 0.3}),
        ("distillation.weights={prosodic = 2.0}", lambda r: r.distillation.weights, {"prosodic": 2.0}),
        ("acoustic.augment.views=5", lambda r: r.acoustic.augment, AugmentConfig(views=5)),
        ("student.layers=none", lambda r: r.student.layers, None),
        ("student.probe=none", lambda r: r.student.probe, None),
        ("augment.noise_snr_db=none", lambda r: r.augment.noise_snr_db, None),
        ("audio.trim_db=none", lambda r: r.audio.trim_db, None),
        (" seed = 3", lambda r: r.seed, 3),
    ],
)  # fmt: skip
def test_an_override_sets_one_field(override: str, get: Any, value: Any, tmp_path: Path) -> None:
    base = load_recipe("ravdess-whisper")
    recipe = load_recipe("ravdess-whisper", [override])
    assert get(recipe) == value
    assert recipe != base
    assert round_trip(recipe, tmp_path) == recipe


def test_the_last_override_wins() -> None:
    assert load_recipe("ravdess-whisper", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "bad override 'seed', expected key=value, such as student.optim.epochs=3"),
        ("=3", "bad override '=3'"),
        ("seed.x=3", "'seed.x'|'seed' is a value, not a section|seed = "),
        ("name.x=3", "bad override 'name.x=3': 'name' is a value, not a section"),
        ("student.optim.ephocs=3", "did you mean 'epochs'"),
        ("protocol.folds=none", "protocol.folds = None"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("ravdess-whisper", [override])


def test_a_partly_given_section_keeps_the_other_defaults_of_its_place(tmp_path: Path) -> None:
    # Setting the epochs of a section must not change its learning rate.
    plain = parse_recipe({"name": "x"})
    assert plain.prosodic.optim.lr != OptimConfig().lr, "or this test checks nothing"
    for part in ("prosodic", "linguistic", "student"):
        recipe = parse_recipe({"name": "x", part: {"optim": {"epochs": 77}}})
        optim, default = getattr(recipe, part).optim, getattr(plain, part).optim
        assert optim == default.model_copy(update={"epochs": 77})
    partly = tmp_path / "x.toml"
    partly.write_text('name = "x"\n[linguistic.optim]\nbackbone_lr = "none"\n')
    assert load_recipe(partly).linguistic.optim.backbone_lr is None
    assert load_recipe(partly).linguistic.optim.lr == plain.linguistic.optim.lr


# --- seeds ---------------------------------------------------------------------------------------


def test_seeds_do_not_change() -> None:
    # A golden value: if seeds change, no earlier run can be repeated.
    assert stable_seed("augment", 0, 1, "a") == 5284069515565456021
    assert stable_seed(1, 23) != stable_seed(12, 3)
    seeds = {stable_seed("x", index) for index in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_recipe_of_the_test_factories_is_valid(manifest: Path) -> None:
    assert make.recipe(manifest).student.backbone == "compact"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("linguistic.optim.mixup=0.4", "linguistic: words cannot be masked or mixed: set optim.time_mask"),
        ("linguistic.optim.time_mask=0.2", "linguistic: words cannot be masked or mixed"),
        ("prosodic.optim.time_mask=0.2", "prosodic: the prosodic teacher has its own masks"),
        ("student.optim.mixup=0.4", "student: mixup mixes states of frozen layers"),
        ("student.optim.mixup=0.001", "mixup = 0.001 has almost no effect: expected 0, or 0.01 and more"),
        ("student.optim.mixup=1000", "student.optim.mixup"),
        ("student.optim.time_mask=1", "student.optim.time_mask"),
    ],
)
def test_masks_and_mixup_are_refused_where_they_have_no_effect(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_recipe("ravdess-compact", [override])
