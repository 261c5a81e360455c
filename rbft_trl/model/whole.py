"""Checkpoints that are complete or absent: written aside, verified, listed with sizes, renamed.

Input: what `Trainer` writes into a folder. Output: `checkpoint-N` with whole.json, or nothing and a sentence.
"""

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open

from rbft_trl.data.jsonl import read_json, write_json
from rbft_trl.errors import UserError

LIST_FILE = "whole.json"
SAVING = ".saving"  # beside the checkpoints; no tool takes it for one
REPLACED = "replaced-"


@contextmanager
def complete_or_absent(final: Path, *, expected: int, writes: bool) -> Iterator[Path]:
    """Gives a folder to write `final.name` into; at the end it is verified and takes its place, in all processes.

    Args:
        final (`Path`): The checkpoint.
        expected (`int`): Bytes that it will need, if no checkpoint tells better.
        writes (`bool`): Whether this process cleans, verifies and renames: one per file system.

    Raises:
        UserError: if there is no room, or not enough; the checkpoints before it stay.
    """
    processes, folder = PartialState(), final.parent / SAVING
    check_room(final.parent, expected)
    if writes:
        clean(final.parent)
        folder.mkdir(parents=True)
    processes.wait_for_everyone()
    with room_told(final.parent, final.name):
        yield folder
        processes.wait_for_everyone()  # until all have written their part
        if writes:
            _put_in_place(folder / final.name, final, processes.num_processes)
    processes.wait_for_everyone()


def check_room(folder: Path, expected: int) -> None:
    """Compares the free space with the newest checkpoint's size before anything is written, for all processes.

    Raises:
        UserError: in every process.
    """
    newest = max(folder.glob(f"checkpoint-*/{LIST_FILE}"), key=lambda file: file.stat().st_mtime, default=None)
    needed = sum(read_json(newest)["files"].values()) if newest else expected
    free = free_bytes(folder)
    short = f"a checkpoint needs {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free" if free < needed else None
    if told := broadcast_object_list([short])[0]:
        raise UserError(_told(folder, told))


def free_bytes(folder: Path) -> int:
    """What the file system says; a quota may allow less."""
    return shutil.disk_usage(folder).free


@contextmanager
def room_told(folder: Path, name: str) -> Iterator[None]:
    """Tells in one sentence that there was no room, however the library that was writing says it.

    Raises:
        UserError: with the way out.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _no_room(error):
            raise
        shutil.rmtree(folder / SAVING, ignore_errors=True)
        raise UserError(_told(folder, f"no room to write '{name}'")) from error


def clean(folder: Path) -> None:
    """Removes what a save that was cut off has left; a whole checkpoint that it was about to replace comes back."""
    for old in (folder / SAVING).glob(f"{REPLACED}*"):
        place = folder / old.name.removeprefix(REPLACED)
        if not place.exists():
            old.rename(place)
    shutil.rmtree(folder / SAVING, ignore_errors=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there with the size that it had when it was verified."""
    try:
        files = json.loads((checkpoint / LIST_FILE).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _put_in_place(written: Path, final: Path, processes: int) -> None:
    files = sorted(file for file in written.rglob("*") if file.is_file())
    if problem := _missing(written, processes) or next(filter(None, map(_damage, files)), None):
        raise UserError(_told(final.parent, f"'{final.name}' was written with faults ({problem})"))
    for file in files:
        _to_disk(file)
    sizes = {str(file.relative_to(written)): file.stat().st_size for file in files}
    write_json(written / LIST_FILE, {"files": sizes, "processes": processes})
    if final.exists():
        final.rename(written.parent / f"{REPLACED}{final.name}")
    written.rename(final)
    _to_disk(final.parent)
    shutil.rmtree(written.parent)


def _missing(written: Path, processes: int) -> str | None:
    for name in ("trainer_state.json", "progress.json", "scheduler.pt"):
        if not (written / name).is_file():
            return f"{name} is missing"
    optimizers = [*written.glob("optimizer.*"), *written.glob("global_step*/*optim_states.pt")]  # or DeepSpeed's
    wanted = processes if (written / "latest").is_file() else 1  # DeepSpeed: one per process
    if not any(written.glob("*.safetensors")) or len(optimizers) < wanted:
        return f"weights or optimizer are missing: {len(optimizers)} of {wanted} optimizer files"
    states = len(list(written.glob("rng_state*.pth")))
    return f"{states} random states for {processes} processes" if states != processes else None


def _damage(file: Path) -> str | None:
    """Why a file cannot be read back; looks at its beginning and end, not at every byte."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix in (".pt", ".pth") and not zipfile.is_zipfile(file):  # torch.save's form
            return f"{file.name} is cut off"
    except (SafetensorError, ValueError) as error:
        return f"{file.name}: {error}"
    return None


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _no_room(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(word in str(error) for word in ("No space left", "quota exceeded", "PytorchStreamWriter"))


def _told(folder: Path, what: str) -> str:
    return (
        f"{what} in '{folder}'; the checkpoints before it are untouched: make room, then go on with "
        "--resume_from_checkpoint true"
    )
