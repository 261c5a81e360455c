"""What is known of every clip: whether it can be read, its frames, length and contents; found out once, then kept.

Input: rows and the data root. Output: one entry per clip, from a JSON Lines file in the cache folder that every entry
shares. An entry is made anew when the file's size or time of change, or the frames that are asked for, differ.
Each clip is read in a child process with a limit of time and memory, so that no file can hang or fill the machine.
"""

import functools
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from rbft_trl.data.children import SECONDS, ChildError, in_children
from rbft_trl.data.jsonl import BatchLog, make_folder, read_jsonl, write_jsonl
from rbft_trl.data.video import ClipError, FrameSettings, describe_clip

Row = dict[str, Any]
Entry = dict[str, Any]
NEEDED = {"video", "start", "end", "size", "changed", "reason", "detail"}
SAVE_EVERY = 20  # clips; what a kill can lose
VERSION = 2  # raise it when entries change their meaning


def cache_folder() -> Path:
    """`$RBFT_CACHE`, or rbft_trl in the user's cache folder."""
    given = os.environ.get("RBFT_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rbft_trl"


def read_manifest(
    rows: list[Row], root: Path, frames: FrameSettings, *, factor: int, seconds: float = SECONDS
) -> dict[str, Entry]:
    """The entry of each row, by id; clips that are new or have changed are read first, with a progress bar.

    Several processes may ask at once: the first one reads, the others wait for its file.

    Args:
        rows (`list[dict]`): Rows with `id`, `video`, `start` and `end`.
        root (`Path`): The data root.
        frames (`FrameSettings`): The one sampler's settings.
        factor (`int`): Both sides of a frame become multiples of it.
        seconds (`float`, *optional*, defaults to 7): Longest time that one clip may take.

    Returns:
        `dict[str, dict]`: `reason` and `detail` (None for a good clip), `seconds` (of the part), `file_seconds`,
        `fps`, `total_frames`, `lost`, `whole` (False for a long file whose frames were not all decoded), `height`,
        `width`, `codec`, `shape` (frames, height, width as the model sees them), `file` and `content` (hashes of the
        bytes and of the sampled frames).
    """
    sampler = [VERSION, str(root.resolve()), frames.to_dict(), factor]
    name = hashlib.sha256(json.dumps(sampler).encode()).hexdigest()[:16]
    file = make_folder(cache_folder()) / f"{name}.jsonl"
    with _patient_lock(file):
        log = BatchLog(file, {"sampler": sampler}, rank=0)
        begun = log.load()
        old = [*(read_jsonl(file) if file.is_file() else []), *(entry for batch in begun.values() for entry in batch)]
        known = {_part(entry): entry for entry in old if entry.keys() >= NEEDED}
        asked = {_part(entry): entry for entry in (_asked(row, root) for row in rows)}
        missing = [entry for part, entry in asked.items() if not _is_same(known.get(part), entry)]
        made = _read_all(missing, root, frames, factor, seconds)
        with tqdm(total=len(missing), desc="reading clips once", unit="clip", disable=not missing) as bar:
            batches = iter(lambda: list(itertools.islice(made, SAVE_EVERY)), [])
            for number, batch in enumerate(batches, start=max(begun, default=-1) + 1):
                log.append(number, batch)
                known |= {_part(entry): entry for entry in batch}
                bar.update(len(batch))
        if missing or begun:
            write_jsonl(file, known.values())
            log.clear()
    return {row["id"]: known[_part(row)] for row in rows}


@contextmanager
def _patient_lock(file: Path) -> Iterator[None]:
    lock = FileLock(f"{file}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print("another process is reading the clips; waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _part(entry: Row | Entry) -> tuple[Any, ...]:
    return entry["video"], entry.get("start"), entry.get("end")


def _is_same(known: Entry | None, asked: Entry) -> bool:
    return (
        known is not None
        and not known.get("passing")
        and (known["size"], known["changed"]) == (asked["size"], asked["changed"])
    )


def _asked(row: Row, root: Path) -> Entry:
    """The clip of a row, with its file's size in bytes and time of change in ns; -1 where there is no file."""
    try:
        state = (root / row["video"]).stat()
        size, changed = state.st_size, state.st_mtime_ns
    except (OSError, ValueError):
        size, changed = -1, -1
    return {"video": row["video"], "start": row.get("start"), "end": row.get("end"), "size": size, "changed": changed}


def _read_all(asked: list[Entry], root: Path, frames: FrameSettings, factor: int, seconds: float) -> Iterator[Entry]:
    read = functools.partial(_read, root=root, frames=frames, factor=factor)
    found = in_children(read, asked, workers=None, seconds=seconds) if asked else iter(())
    for entry, said in zip(asked, found, strict=True):
        if isinstance(said, ChildError):
            said = _bad(said.reason, said.detail) | {"passing": True}  # a busy machine: asked again next time
        elif isinstance(said, Exception):
            raise said
        yield entry | said


def _read(entry: Entry, *, root: Path, frames: FrameSettings, factor: int) -> Entry:
    try:
        path, part = root / entry["video"], {"start": entry["start"], "end": entry["end"]}
        return {"reason": None, "detail": None} | describe_clip(path, frames, factor=factor, **part)
    except ClipError as error:
        return _bad(error.reason, error.detail)


def _bad(reason: str, detail: str) -> Entry:
    return {"reason": reason, "detail": detail}
