"""JSON Lines on disk: read, write at once, and a log of finished batches that survives being killed.

A step that writes a file writes it to a temporary name and renames it, so a reader never sees half a file.
"""

import glob
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rbft_trl.errors import UserError

OURS = "delete the file and run its step again"
THEIRS = "correct the line, or write the file anew"


def read_jsonl(path: str | Path, *, by_user: bool = False) -> list[dict[str, Any]]:
    """All rows of a file.

    Args:
        path (`Path`): The file.
        by_user (`bool`, *optional*, defaults to `False`): Whether a person may have written or edited it, who must
            not be told to delete it.

    Raises:
        UserError: if the file is missing or a line is not a JSON object.
    """
    return [row for _, row in numbered_jsonl(path, by_user=by_user)]


def numbered_jsonl(path: str | Path, *, by_user: bool = False) -> list[tuple[int, dict[str, Any]]]:
    """As [`read_jsonl`], each row with the number of its line: empty lines are no rows, but count as lines."""
    path, way_out = Path(path), THEIRS if by_user else OURS
    if not path.is_file():
        missing = (
            "correct its path, or run the step that writes it" if by_user else "run the step that writes it first"
        )
        raise UserError(f"the file '{path}' does not exist; {missing}")
    lines = path.read_bytes().split(b"\n")  # not splitlines: a text may hold U+2028, which JSON leaves as it is
    rows = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return [(number, parse_object(line, f"{path}:{number}", way_out=way_out)) for number, line in rows]


def parse_object(text: str | bytes, place: str, *, way_out: str = OURS) -> dict[str, Any]:
    """One JSON object.

    Raises:
        UserError: with the place and the way out, if it is anything else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({error}); {way_out}") from error
    if not isinstance(value, dict):
        raise UserError(f"{place} holds {type(value).__name__}, not an object; {way_out}")
    return value


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object that a step of ours wrote.

    Raises:
        UserError: if it is damaged.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error}); {OURS}") from error
    return parse_object(text, f"'{path}'")


def first_difference(
    made: dict[str, Any], wanted: dict[str, Any], *, among: Iterable[str] | None = None
) -> str | None:
    """The first key whose value in a record differs from what is wanted now, or None.

    Args:
        made (`dict`): What a file holds.
        wanted (`dict`): What would be written now; compared as JSON gives it back (a tuple is a list there).
        among (`Iterable[str]`, *optional*): The keys to look at; all keys of both, in alphabetical order, if left out.
    """
    wanted = json.loads(json.dumps(wanted))
    keys = sorted(made.keys() | wanted.keys()) if among is None else among
    return next((key for key in keys if made.get(key) != wanted.get(key)), None)


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes all rows at once (temporary file, then rename)."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: str | Path, value: Any) -> None:
    """Writes one JSON value, indented, at once."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def check_folder(path: str | Path) -> Path:
    """The folder that a step is going to write; nothing is made yet, since other mistakes may be found.

    Raises:
        UserError: if it cannot be made or written.
    """
    path = Path(path)
    there = next(part for part in (path, *path.absolute().parents) if os.path.exists(part))
    if not there.is_dir():
        raise UserError(f"the folder '{path}' cannot be made ('{there}' is no folder); choose another output")
    if not os.access(there, os.W_OK):
        raise UserError(f"the folder '{there}' cannot be written; choose another output, or change its rights")
    return path


def make_folder(path: str | Path) -> Path:
    """The folder that a step is going to write, made before the work and not after it.

    Raises:
        UserError: if it cannot be made or written.
    """
    path = check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder '{path}' cannot be made ({error.strerror}); choose another output") from error
    return path


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file at once: no reader and no crash ever sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:  # odd file names
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk: an error of write names no file
        temporary.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise


class BatchLog:
    """Finished batches of a long step: one line per batch, one file per rank, so SIGKILL loses at most one batch.

    Args:
        path (`Path`): The final file; parts lie beside it as `NAME.rank0.part` and so on.
        settings (`dict`): What the step depends on; parts made with other settings are refused.
        rank (`int`): This process.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, rank: int) -> None:
        self.path, self.settings = Path(path), settings
        self.part = self.path.with_name(f"{self.path.name}.rank{rank}.part")

    def load(self) -> dict[int, list[dict[str, Any]]]:
        """Rows of every finished batch, by batch number, over the parts of all ranks."""
        finished: dict[int, list[dict[str, Any]]] = {}
        for part in self._parts():
            for entry in self._whole_lines(part):
                if not entry.keys() >= {"settings"} and not entry.keys() >= {"batch", "rows"}:
                    raise UserError(f"'{part}' holds a line that is no finished batch; delete the .part files")
                if "settings" in entry:
                    self._refuse_other(entry["settings"], part)
                else:
                    finished[entry["batch"]] = entry["rows"]
        return finished

    def append(self, batch: int, rows: list[dict[str, Any]]) -> None:
        """Adds one finished batch and waits until it is on the disk."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.part.exists()
        if not fresh:
            _cut_half_line(self.part)
        with self.part.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            if fresh or self.part.stat().st_size == 0:
                stream.write(json.dumps({"settings": self.settings}) + "\n")
            stream.write(json.dumps({"batch": batch, "rows": rows}, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    @property
    def stop_file(self) -> Path:
        """Stands beside the parts while all processes are asked to stop; each looks for it after its batch."""
        return self.path.with_name(f"{self.path.name}.stop")

    def clear(self) -> None:
        """Removes the parts, once the final file is written."""
        for part in self._parts():
            part.unlink()

    def _parts(self) -> list[Path]:
        pattern = f"{glob.escape(self.path.name)}.rank*.part"
        return sorted(self.path.parent.glob(pattern)) if self.path.parent.is_dir() else []

    def _whole_lines(self, part: Path) -> Iterator[dict[str, Any]]:
        lines = part.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):  # what has no end was being written when the process died
            yield parse_object(line, f"{part}:{number}")

    def _refuse_other(self, settings: dict[str, Any], part: Path) -> None:
        if key := first_difference(settings, self.settings):
            raise UserError(
                f"'{part}' was begun with {key} = {settings.get(key)!r}, now it is {self.settings.get(key)!r}; "
                "delete the .part files to start again, or choose another output"
            )


def _cut_half_line(part: Path) -> None:
    with part.open("r+b") as stream:
        if not stream.seek(0, os.SEEK_END):
            return
        stream.seek(-1, os.SEEK_END)  # the last byte tells; the whole of a long log is read only after a kill
        if stream.read(1) != b"\n":
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
