"""Ray Data: starts a cluster on this machine or joins one, and gives shards to workers."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from emodistill.console import warn
from emodistill.errors import ConfigError, EmodistillError, MissingExtraError

STARTS = 3  # of Ray on a busy machine, where it does not start within the 30 s that it allows itself
LATE = "timed out during startup"  # in its message


def load_ray() -> Any:
    """Return the package ray with its module `data`. It sends no usage reports.

    Raises `MissingExtraError` without Ray Data.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's own processes write to this terminal too
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray[data]", "scale", "emodistill scale") from error
    return ray


@contextmanager
def cluster(address: str | None, num_cpus: int) -> Iterator[Any]:
    """Give Ray, connected to the cluster at `address`, or to one of this machine alone for None.

    The local cluster has `num_cpus` CPUs and no dashboard, and ends with the block. Its ports are open to the
    network, so Ray requires a token there (2.60 or newer does so by itself). Raises `ConfigError` if the
    cluster cannot be reached.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
    for tries_left in reversed(range(STARTS)):
        try:
            with _quiet():
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            break
        except Exception as error:  # Ray raises this class itself where a node does not start in time.
            ray.shutdown()
            if LATE in str(error) and tries_left:
                continue
            place = "on this machine" if address is None else f"at '{address}'"
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(f"no Ray cluster {place}: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what Ray's C++ code writes to standard error while it starts: its level of logs."""
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def run_shards(
    ray: Any, worker: type, arguments: Sequence[Any], shards: Sequence[int], workers: int, threads: int
) -> Iterator[Mapping[str, Any]]:
    """Yield what `worker(*arguments)` returns for each shard, as soon as it is done, in any order.

    `workers` actors run, with `threads` CPUs each. Each holds one more shard than the one that it works on,
    because Ray Data looks only ten times in a second for actors without work. An actor that ends is started
    again, and its shards are done again, without an end. Nothing is yielded for a shard whose worker raises
    an error.

    Raises `EmodistillError` if no worker can start.
    """
    if not shards:
        return
    configure(ray)
    items = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    pool = ray.data.ActorPoolStrategy(size=min(workers, len(shards)), max_tasks_in_flight_per_actor=2)
    done = items.map_batches(
        worker, fn_constructor_args=tuple(arguments), batch_size=1, compute=pool, num_cpus=threads
    )  # fmt: skip
    needed, there = pool.max_size * threads, ray.cluster_resources().get("CPU", 0)
    if needed > there:
        warn(f"the workers need {needed} CPUs, but the cluster has {there:g}: fewer of them run at a time")
    try:
        yield from done.iter_rows()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EmodistillError(f"Ray stopped: {reason}; look at Ray's logs in /tmp/ray") from error


def configure(ray: Any, may_fail: bool = True) -> None:
    """Set the options of Ray Data. With `may_fail`, a shard that fails does not end the others."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1 if may_fail else 0
    context.shuffle_strategy = ray.data.context.ShuffleStrategy.SORT_SHUFFLE_PULL_BASED  # works with one CPU
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the driver prints errors
