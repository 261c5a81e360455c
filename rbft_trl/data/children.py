"""Work on untrusted files in child processes that can be killed: no file can hang a run or fill the machine.

Input: a function of one item, and items. Output: results in order, or why there is none.
"""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as TookTooLong
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

SECONDS = 7.0  # per item; to kill a child takes up to 3 more
GIGABYTES = 2.0  # per child, beyond what it has mapped when it starts
AHEAD = 4  # items in flight per child


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
    # Forked, as torch's own loaders are: a fresh interpreter would import the whole entry again.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPool(workers or cores, initializer=_begin, context=context) as pool:
        pending: deque[Any] = deque()
        try:
            for item in items:
                pending.append(pool.schedule(work, args=[item], timeout=seconds))
                if len(pending) >= AHEAD * (workers or cores):
                    yield _result(pending.popleft(), seconds)
            while pending:
                yield _result(pending.popleft(), seconds)
        finally:
            for future in pending:
                future.cancel()


def _result(future: Any, seconds: float) -> Any:
    try:
        return future.result()
    except TookTooLong:
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
