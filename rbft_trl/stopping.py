"""SIGTERM stops a run at the end of a step or batch, with everything finished on the disk, and says how to go on.

Input: SIGTERM to this process, to its launcher, or to all. Output: `Stopped`, in every process; exit 143.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_CODE = 128 + signal.SIGTERM
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
BY_LAUNCHER = {"ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"}

_noted, _late = threading.Event(), threading.Event()


class Stopped(Exception):
    """A run was asked to stop and has done so in order.

    Args:
        done (`str`): How far it came.
        way_on (`str`): How to go on.
    """

    def __init__(self, done: str, way_on: str = "the same command goes on") -> None:
        super().__init__(f"{done}; {way_on}")
        self.done = done


@contextmanager
def listening() -> Iterator[None]:
    """Inside, SIGTERM is noted, and `noted` tells; outside, it ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in no other
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: _noted.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if _noted.is_set():
            _late.set()
        _noted.clear()


@contextmanager
def one_part() -> Iterator[None]:
    """A part of a driver. SIGTERM may come after the last look that the part takes, e.g. while it is being saved: then
    the part is finished, and the driver must not begin the next one.

    Raises:
        Stopped: then.
    """
    _late.clear()
    yield
    if _late.is_set():
        raise Stopped("stopped; the part that was running is finished")


def noted() -> bool:
    """Whether this process was asked to stop."""
    return _noted.is_set()


def follow_launcher() -> None:
    """Lets SIGTERM come when `accelerate launch` dies: with one process it dies without passing the signal on.

    Does nothing without that launcher, and on systems other than Linux.

    Raises:
        Stopped: if the launcher died while this process was starting.
    """
    if sys.platform != "linux" or not os.environ.keys() >= BY_LAUNCHER:
        return
    launcher = os.getppid()
    if _is_launcher(launcher):
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGTERM)
    elif launcher != 1:  # a shell or another program stands between
        return
    if os.getppid() != launcher or not _is_launcher(launcher):
        raise Stopped("stopped before it began, since its launcher has gone")


def _is_launcher(process: int) -> bool:
    try:
        return b"accelerate" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has just gone
        return False
