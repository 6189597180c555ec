"""Work on many inputs at once, in threads, with the results in the order of the inputs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Input = TypeVar("Input")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Input], Result], inputs: Iterable[Input], jobs: int = 1
) -> Iterator[Result]:
    """Yield `function(input)` for each input, in order, with `jobs` threads.

    One job runs in the thread of the caller.
    At most `2 * jobs` inputs are taken ahead of the result that is yielded, so `inputs` may be endless. When
    the caller closes the iterator, work that has not begun is cancelled. An error of `function` is raised in
    place of its result. Ctrl-C does not wait for the work that has begun.
    """
    if jobs <= 1:
        yield from map(function, inputs)
        return
    # Threads are enough: the model, the detector and the decoders run outside Python's global lock.
    pool = ThreadPoolExecutor(jobs, "emodistill")
    waiting: deque[Future[Result]] = deque()
    wait = True
    try:
        for item in inputs:
            waiting.append(pool.submit(copy_context().run, function, item))
            if len(waiting) > 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)
