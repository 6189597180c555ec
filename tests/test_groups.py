"""Runs as groups of seeds: which runs are one group, in any order."""

from pathlib import Path

import factories as make
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.config import parse_recipe
from emodistill.evaluation.groups import RunGroup, group_runs, ungrouped
from emodistill.evaluation.run import Run
from emodistill.protocol.folds import Fold, Protocol

PROTOCOL = Protocol("fake", "two folds", (Fold("1", ("a",), ("b",), ("c",)),))


def run(name: str, seed: int = 0, protocol: Protocol = PROTOCOL, **sections: object) -> Run:
    recipe = parse_recipe({**make.recipe_data(Path("u.csv"), **sections), "seed": seed})
    return Run(Path(name), recipe, protocol, {"recipe": "tiny", "folds": ["1"], "models": {}})


RUNS = [
    *(run(f"runs/plain-seed{seed}", seed) for seed in range(3)),
    *(run(f"cells/hot/seed-{seed}", seed, distillation={"temperature": 3.0}) for seed in (0, 4)),
    run("other", 0, Protocol("fake", "one fold", (Fold("1", ("b",), ("a",), ("c",)),))),
    Run(Path("evaluation"), None, PROTOCOL, {}),
    Run(Path("evaluation-2"), None, PROTOCOL, {}),
]


@settings(deadline=None)
@given(st.permutations(RUNS))
def test_groups_do_not_depend_on_the_order_of_runs(runs: list[Run]) -> None:
    found = group_runs(runs)
    assert {(group.title, group.seeds) for group in found} == {
        ("runs/plain, seeds 0 1 2", (0, 1, 2)),
        ("cells/hot, seeds 0 4", (0, 4)),
        ("other", (0,)),
        ("evaluation", (None,)),
        ("evaluation-2", (None,)),
    }
    first = [min(runs.index(item) for item in group.runs) for group in found]
    assert first == sorted(first), "groups are in the order of their first runs"


def test_a_repeated_seed_is_another_group() -> None:
    runs = [run("a", 0), run("b", 0), run("c", 1)]
    assert [group.seeds for group in group_runs(runs)] == [(0, 1), (0,)]


def test_the_settings_of_the_machine_do_not_part_a_group_but_the_precision_does() -> None:
    runs = [
        run("a", 0),
        run("b", 1, runtime={"threads": 4}),
        run("c", 2, runtime={"precision": "bf16"}),
    ]
    assert [group.seeds for group in group_runs(runs)] == [(0, 1), (2,)]


def test_a_group_with_unlike_folders_has_the_name_of_its_recipe() -> None:
    (group,) = group_runs([run("monday", 0), run("tuesday", 1)])
    assert group.name == "tiny"


def test_single_runs_are_groups_with_the_names_of_their_folders() -> None:
    assert ungrouped(RUNS[:2]) == [RunGroup(str(item.folder), (item,)) for item in RUNS[:2]]
    assert [group.name for group in group_runs(RUNS[:1])] == ["runs/plain-seed0"]
