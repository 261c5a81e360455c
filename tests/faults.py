"""Faults that hit a running entry: what each does, and whether the run ends, after a restart, as if nothing had been.

Every run is a process of its own, forked from one that has imported everything: a case takes seconds.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rbft_trl.data.jsonl import read_jsonl

ENTRY = {"stage0": "rationales", "stage1": "sft", "stage2": "sft", "eval": "eval"}
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["rbft_trl.rationales", "rbft_trl.sft", "rbft_trl.eval", "tests.faults"])


@dataclass
class Case:
    """One stage with its recipe, its folder, and the undisturbed result that it is compared with."""

    stage: str
    recipe: str
    out: Path  # the folder that the run writes, or the folder of stage 0's file
    straight: Path
    log: Path
    units: int  # steps or batches of the whole run

    def argv(self, *, again: bool = False) -> list[str]:
        if self.stage == "stage0":
            return [self.recipe, "--output_file", str(self.out / "rationales.jsonl")]
        resume = ["--resume_from_checkpoint", "true"] if again and ENTRY[self.stage] == "sft" else []
        return [self.recipe, "--output_dir", str(self.out), *resume]

    def done(self) -> int:
        """Steps or batches so far."""
        if ENTRY[self.stage] == "sft":
            return self.log.read_text(errors="replace").count("'loss':") if self.log.exists() else 0
        return sum(part.read_bytes().count(b"\n") - 1 for part in self.out.glob("*.part"))

    def result(self, folder: Path) -> Any:
        """What must be equal: bytes of the weights and the steps, or every row."""
        if self.stage == "stage0":
            return (folder / "rationales.jsonl").read_bytes()
        if self.stage == "eval":
            rows = read_jsonl(folder / "predictions.jsonl")
            return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        record = json.loads((folder / "rbft.json").read_text())
        weights = (folder / "adapter_model.safetensors").read_bytes()
        return weights, record["steps"], record["presentations"]


def work(entry: str, argv: list[str], log: str, patches: list[tuple[Callable, tuple]]) -> None:
    """In the new process: output to `log`, patches applied, then the entry as on the command line."""
    import importlib

    from rbft_trl.errors import run_entry

    multiprocessing.set_start_method("fork", force=True)  # as in a fresh command; a child of a fork server has its
    stream = open(log, "a")  # noqa: SIM115
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    for patch, arguments in patches:
        patch(*arguments)
    sys.argv = [f"rbft_trl/{entry}.py", *argv]
    run_entry(importlib.import_module(f"rbft_trl.{entry}").main)


def start(case: Case, *, again: bool = False, patches: list | None = None) -> Any:
    entry = ENTRY[case.stage]
    process = SERVER.Process(target=work, args=(entry, case.argv(again=again), str(case.log), patches or []))
    process.start()
    return process


def finish(process: Any) -> int:
    process.join(timeout=300)
    assert not process.is_alive(), "the run hangs"
    return process.exitcode


def wait_for(case: Case, process: Any, point: int) -> bool:
    while process.is_alive() and case.done() < point:
        time.sleep(0.003)
    return process.is_alive()


# Each fault: runs the case with the fault at `point`, and returns the exit code.


def sigterm(case: Case, point: int, draw: random.Random) -> int:
    process = start(case)
    if wait_for(case, process, point):
        time.sleep(draw.random() * 0.1)
        os.kill(process.pid, signal.SIGTERM)
    return finish(process)


def sigkill(case: Case, point: int, draw: random.Random) -> int:
    process = start(case)
    if wait_for(case, process, point):
        time.sleep(draw.random() * 0.1)
        readers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        for reader in readers:  # of a killed container nothing is left
            with suppress(psutil.NoSuchProcess):
                reader.kill()
    return finish(process)


def lie_about_room() -> None:
    """As under a quota: the free space is not what can be written."""
    from rbft_trl.model import whole

    whole.free_bytes = lambda folder: 1 << 60


def disk_full(case: Case, point: int, draw: random.Random) -> int:
    """`case.out` lies on a small file system of its own (see the test), which is filled while the run goes on."""
    quota = draw.random() < 0.5
    process = start(case, patches=[(lie_about_room, ())] if quota else [])
    filler = case.out.parent / "filler"
    if wait_for(case, process, point):
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        os.truncate(filler, max(0, filler.stat().st_size - draw.randrange(0, 200_000)))
    code = finish(process)
    filler.unlink(missing_ok=True)
    return code


def _break_newest(case: Case, point: int, draw: random.Random, harm: Callable[[Path], None]) -> int:
    process = start(case)
    while process.is_alive() and (
        case.done() < point or len(list(case.out.glob("checkpoint-*/whole.json"))) < 2
    ):  # one before it
        time.sleep(0.003)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    code = finish(process)
    (case.out / "rbft.json").unlink(missing_ok=True)
    newest = max(case.out.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    harm(newest)
    return code or 1  # it must be started again


def truncated(case: Case, point: int, draw: random.Random) -> int:
    def harm(newest: Path) -> None:
        file = draw.choice(
            sorted(f for f in newest.rglob("*") if f.suffix in (".safetensors", ".pt", ".pth", ".json"))
        )
        os.truncate(file, draw.randrange(file.stat().st_size))

    return _break_newest(case, point, draw, harm)


def no_random_state(case: Case, point: int, draw: random.Random) -> int:
    return _break_newest(case, point, draw, lambda newest: (newest / "rng_state.pth").unlink())


def killed_reader(case: Case, point: int, draw: random.Random) -> int:
    process = start(case)
    wait_for(case, process, point)
    while process.is_alive():
        readers = []
        with suppress(psutil.NoSuchProcess):
            readers = psutil.Process(process.pid).children()
        if readers:
            with suppress(psutil.NoSuchProcess):
                draw.choice(readers).kill()
            break
    return finish(process)


def hang_once(mark: str, after: int) -> None:
    """The `after`-th clip that is read hangs its reader for ever, once in the life of the file `mark`."""
    from rbft_trl import batches
    from rbft_trl.model import collator, stop

    HANG.update(mark=mark, after=after, read=batches.read_row)
    batches.read_row = collator.read_row = hanging_read
    stop.SECONDS_PER_CLIP, stop.LEAST_SECONDS = 1, 3


HANG: dict[str, Any] = {}


def hanging_read(row: dict, **options: Any) -> Any:
    """`read_row` with one clip that hangs."""
    with open(f"{HANG['mark']}.count", "ab") as stream:
        stream.write(b".")
    if os.stat(f"{HANG['mark']}.count").st_size >= HANG["after"]:
        with suppress(FileExistsError):
            os.close(os.open(HANG["mark"], os.O_CREAT | os.O_EXCL))
            time.sleep(3600)
    return HANG["read"](row, **options)


def hanging_decoder(case: Case, point: int, draw: random.Random) -> int:
    mark = case.log.with_suffix(".hung")
    per_unit = {"stage0": 2, "eval": 1}.get(case.stage, 4)
    process = start(case, patches=[(hang_once, (str(mark), point * per_unit))])
    code = finish(process)
    assert mark.exists(), "nothing hung"
    return code


FAULTS: dict[str, tuple[Callable[[Case, int, random.Random], int], tuple[str, ...]]] = {
    "SIGTERM": (sigterm, ("stage0", "stage1", "stage2", "eval")),
    "SIGKILL": (sigkill, ("stage0", "stage1", "stage2", "eval")),
    "disk full in a save": (disk_full, ("stage0", "stage1", "stage2", "eval")),
    "truncated newest checkpoint": (truncated, ("stage1", "stage2")),
    "deleted RNG file": (no_random_state, ("stage1", "stage2")),
    "killed loader worker": (killed_reader, ("stage0", "stage1", "stage2", "eval")),
    "hanging decoder": (hanging_decoder, ("stage0", "stage1", "stage2", "eval")),
}


def outcome(case: Case, fault: str, point: int, draw: random.Random) -> str:
    """`fine`, or in words what went wrong."""
    code = FAULTS[fault][0](case, point, draw)
    starts = 1
    while code != 0:
        told = case.log.read_text(errors="replace")
        if code > 0 and "Traceback" in told:
            return f"a traceback instead of a sentence: {told[-600:]}"
        if starts == 3:
            return f"exit {code} after {starts} starts: {told[-600:]}"
        code, starts = finish(start(case, again=True)), starts + 1
    if case.result(case.out) != case.result(case.straight):
        return f"another result than the undisturbed run ({starts} starts)"
    left = [*case.out.glob("*.part"), *case.out.glob("*.stop"), *case.out.glob(".saving"), *case.out.glob(".*.tmp")]
    return f"left behind: {left}" if left else "fine"
