"""Work on files in threads, a few files ahead of whoever takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


def in_threads(
    task: Callable[[Any], Any], items: Iterable[Any], num_workers: int, check: Callable[[], None], title: str
) -> Iterator[Any]:
    """`task` of each item, in order, with a progress bar; 0 workers: in this thread.

    No more than a few results a worker wait to be taken, however many items there are.
    """
    from tqdm import tqdm

    items = list(items)
    executor = ThreadPoolExecutor(num_workers) if num_workers else None
    try:
        results = _in_order(executor, task, items, 2 * num_workers) if executor else map(task, items)
        for result in tqdm(results, total=len(items), desc=title, unit="img", leave=False, disable=None):
            check()
            yield result
    finally:
        if executor:
            executor.shutdown(cancel_futures=True)


def _in_order(executor: ThreadPoolExecutor, task: Callable[[Any], Any], items: list[Any], ahead: int) -> Iterator[Any]:
    waiting: deque[Future] = deque()
    for item in items:
        if len(waiting) == ahead:
            yield waiting.popleft().result()
        waiting.append(executor.submit(task, item))
    while waiting:
        yield waiting.popleft().result()
