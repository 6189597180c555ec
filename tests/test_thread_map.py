"""Work in threads: results in order, few inputs taken ahead, errors raised, and the rest cancelled."""

import time
from collections.abc import Iterator
from itertools import count, islice
from threading import Lock, current_thread

import pytest

from emodistill.inference.thread_map import map_in_order


def slow_double(number: int) -> int:
    time.sleep(0.002 * (number % 3))
    return 2 * number


@pytest.mark.parametrize("jobs", [0, 1, 2, 7])
def test_results_come_in_the_order_of_the_inputs(jobs: int) -> None:
    assert list(map_in_order(slow_double, range(20), jobs)) == [2 * number for number in range(20)]
    assert list(map_in_order(slow_double, [], jobs)) == []


def test_one_job_works_in_the_thread_of_the_caller() -> None:
    names = set(map_in_order(lambda _: current_thread().name, range(3), 1))
    assert names == {current_thread().name}


def test_few_inputs_of_an_endless_iterator_are_taken_ahead() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in count():
            taken.append(number)
            yield number

    results = map_in_order(slow_double, numbers(), jobs=2)
    assert list(islice(results, 3)) == [0, 2, 4]
    assert len(taken) <= 3 + 2 * 2
    results.close()  # type: ignore[attr-defined]


def test_closing_the_iterator_cancels_work_that_has_not_begun() -> None:
    started: list[int] = []
    lock = Lock()

    def work(number: int) -> int:
        with lock:
            started.append(number)
        time.sleep(0.02)
        return number

    results = map_in_order(work, range(100), jobs=2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    num_started = len(started)
    time.sleep(0.1)
    assert len(started) == num_started <= 5


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_error_is_raised_in_place_of_its_result(jobs: int) -> None:
    def invert(number: int) -> float:
        return 1 / number

    results = map_in_order(invert, [2, 1, 0, 4], jobs)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
