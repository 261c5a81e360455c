"""Work on untrusted files in child processes that can be killed: no file can hang a run or fill the machine.

Input: a function of one item, and items. Output: results in order, or why there is none.
"""

import itertools
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures import TimeoutError as TookTooLong
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

SECONDS = 7.0  # per item; to kill a child takes up to 3 more
GIGABYTES = 2.0  # per child, beyond what it has mapped when it starts
MOST_POOLS = 10  # that may break in one run before it is given up
AHEAD = 4  # items in flight per child
GRACE = 10.0  # seconds beside those for one item, in which a child is killed and another begins


class PoolBroke(RuntimeError):
    """A child was killed from outside while it held what all children share; its clip is not to blame."""


class ChildError(Exception):
    """Why a child gave no result: `reason` is one of ClipError's, `detail` a sentence with the way out."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def in_children(
    work: Callable[[Any], Any], items: Iterable[Any], *, workers: int | None = None, seconds: float = SECONDS
) -> Iterator[Any]:
    """Results of `work(item)` in the order of the items; only a few items are ahead of what was taken.

    Args:
        work (`Callable`): A function that can be pickled.
        items (`Iterable`): What it works on.
        workers (`int`, *optional*): Children; as many as there are cores if left out.
        seconds (`float`, *optional*, defaults to 7): Longest time for one item.

    Yields:
        `Any`: A result, the exception that `work` raised, or a `ChildError` if time or memory ran out or the child
        died.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    source, begun = iter(items), deque()
    for pools_left in reversed(range(MOST_POOLS)):
        try:
            yield from _one_pool(work, source, begun, workers or cores, seconds)
            return
        except PoolBroke:
            if pools_left == 0:
                raise


def _one_pool(
    work: Callable[[Any], Any], source: Iterator[Any], begun: deque[Any], workers: int, seconds: float
) -> Iterator[Any]:
    """Results of what an earlier pool left in `begun`, then of `source`; items stay in `begun` until they are done."""
    # Forked, as torch's own loaders are: a fresh interpreter would import the whole entry again.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPool(workers, initializer=_begin, context=context) as pool:
        pending: deque[Any] = deque()
        try:
            for item in begun:
                pending.append(_schedule(pool, work, item, seconds))
            while True:
                for item in itertools.islice(source, AHEAD * workers - len(pending)):
                    begun.append(item)
                    pending.append(_schedule(pool, work, item, seconds))
                if not pending:
                    return
                result = _result(pending[0], seconds)
                pending.popleft()
                begun.popleft()
                yield result
        except PoolBroke:
            pool.stop()
            raise
        finally:
            for future in pending:
                future.cancel()


def _schedule(pool: ProcessPool, work: Callable[[Any], Any], item: Any, seconds: float) -> Any:
    try:
        return pool.schedule(work, args=[item], timeout=seconds)
    except RuntimeError as error:  # of the pool: the work has not begun
        raise PoolBroke(str(error)) from error


def _result(future: Any, seconds: float) -> Any:
    try:
        # The first of what is pending has begun; a child that is killed while it takes an item loses it unheard.
        return future.result(timeout=seconds + GRACE)
    except (BrokenExecutor, CancelledError) as error:
        raise PoolBroke(str(error)) from error
    except TookTooLong:
        if not future.done():
            raise PoolBroke(f"no answer in {seconds + GRACE:g} s") from None
        return ChildError("too_long", f"reading it took more than {seconds:g} s; cut it into parts, or convert it")
    except ProcessExpired as error:
        return ChildError("unreadable", f"its decoder crashed (exit {error.exitcode}); convert it to H.264 mp4")
    except MemoryError:
        return ChildError("too_large", f"it needs more than {GIGABYTES:g} GB of memory; scale it down")
    except Exception as error:  # handed on: its user knows what it means
        return error


def _begin() -> None:
    """SIGTERM to all processes must not look like a clip that crashed its decoder; and memory is limited."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        import resource  # not on Windows

        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = mapped + int(GIGABYTES * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
