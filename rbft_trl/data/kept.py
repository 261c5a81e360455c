"""Decoded frames that are kept in memory, so that a process decodes a clip once and not in every epoch and evaluation.

Input: a file, and how its frames are taken. Output: what was read, from memory if the file is still the same.
"""

import copy
import multiprocessing
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

LIMIT = 1 << 30  # bytes per process: 3,500 clips of 8 frames at 112 x 112, 260 of 16 frames at 252 x 336


class Kept:
    """What was read last, as much as fits; what has not been asked for the longest goes first.

    Off until `limit` is set (`open_task` does, so training, stage 0 and evaluation; not prediction, where each clip is
    read once). Processes that read ahead (`dataloader_num_workers`) keep nothing: they end with their epoch, and each
    would hold as much as its parent.

    Args:
        limit (`int`, *optional*, defaults to 0): Bytes of frames that may be held.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.held = limit, 0
        self.clips: OrderedDict[Hashable, Any] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, file: Path, how: Hashable, read: Callable[[], Any]) -> Any:
        """A clip that the caller may change: from memory, or else read.

        Args:
            file (`Path`): The file; another one in its place, or a changed one, is read anew.
            how (`Hashable`): Everything else that its frames depend on.
            read (`Callable`): Reads it into an object with `frames`; what it raises is passed on and not kept.
        """
        if not self.limit or multiprocessing.parent_process() is not None:
            return read()
        try:
            found = file.stat()
        except (OSError, ValueError):
            return read()  # which says what is wrong with the file
        key = (str(file), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, how)
        with self.lock:
            if key in self.clips:
                self.clips.move_to_end(key)
                return copy.deepcopy(self.clips[key])
        clip = read()
        with self.lock:
            self._keep(key, clip)
        return clip

    def clear(self) -> None:
        """Forgets everything."""
        with self.lock:
            self.clips.clear()
            self.held = 0

    def _keep(self, key: Hashable, clip: Any) -> None:
        if key in self.clips or clip.frames.nbytes > self.limit:  # another thread was faster; or a very long clip
            return
        self.clips[key] = copy.deepcopy(clip)
        self.held += clip.frames.nbytes
        while self.held > self.limit:
            _, oldest = self.clips.popitem(last=False)
            self.held -= oldest.frames.nbytes


KEPT = Kept()
