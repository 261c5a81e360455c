"""The loop that stage 0 and evaluation share: fixed batches, dealt to processes, each written down when it is done.

Input: numbered batches of rows and a function of one batch. Output: what it returned, in order, over all processes.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from tqdm import tqdm

from rbft_trl.data.children import ChildError, in_children
from rbft_trl.data.jsonl import BatchLog
from rbft_trl.data.video import Clip, ClipError, read_row
from rbft_trl.model.collator import ClipCollator
from rbft_trl.stopping import Stopped, listening, noted

Row = dict[str, Any]
Pairs = list[tuple[Row, Clip | ClipError]]


def fixed_batches(rows: list[Row], size: int, *, first: int = 0) -> dict[int, list[Row]]:
    """Numbered batches over the sorted ids: the same clips share a batch whatever the number of processes."""
    ordered = sorted(rows, key=lambda row: row["id"])
    return {first + i // size: ordered[i : i + size] for i in range(0, len(ordered), size)}


def start_processes(*, use_cpu: bool) -> Accelerator:
    """The processes of stage 0, evaluation or prediction; at a barrier one may wait for another for a day.

    torch's own limit is 10 minutes on GPUs, and batches of long texts do not end at the same time.
    """
    patient = InitProcessGroupKwargs(timeout=timedelta(days=1))
    return Accelerator(cpu=use_cpu, kwargs_handlers=[patient])


def run_batches(
    work: Callable[[int, Pairs], list[Row]],
    batches: dict[int, list[Row]],
    log: BatchLog,
    accelerator: Accelerator,
    collator: ClipCollator,
    *,
    title: str,
    workers: int,
) -> list[Row]:
    """Runs `work` on every batch that the log does not hold yet.

    Args:
        work (`Callable`): From a batch's number and its rows with their clips (or why a clip cannot be read) to rows.
        batches (`dict`): Of `fixed_batches`; process r of n takes every n-th of those that are left.
        log (`BatchLog`): Finished batches, of all processes.
        accelerator (`Accelerator`): The processes.
        collator (`ClipCollator`): Reads the clips.
        title (`str`): Of the progress bar.
        workers (`int`): Processes that read clips ahead, each with a limit of time and memory per clip; 0: none.

    Returns:
        `list[dict]`: The rows of every batch in the order of the batches, whatever the number of processes.

    Raises:
        Stopped: in every process, after the batches in flight, if SIGTERM came to any of them.
    """
    finished = log.load()
    if accelerator.is_main_process:
        log.stop_file.unlink(missing_ok=True)
    accelerator.wait_for_everyone()  # nobody appends before everybody has read
    left = [i for i in batches if i not in finished]  # dealt anew, so that after a stop nobody waits for one process
    mine = left[accelerator.process_index :: accelerator.num_processes]
    clips = read_ahead(collator, [row for i in mine for row in batches[i]], workers)
    with listening(), contextlib.closing(clips):
        for number in tqdm(mine, desc=title, unit="batch", disable=not accelerator.is_main_process):
            log.append(number, work(number, [(row, next(clips)) for row in batches[number]]))
            if noted():
                log.stop_file.touch()  # no collective: processes have different numbers of batches
            if log.stop_file.exists():
                break
    accelerator.wait_for_everyone()
    try:
        return in_order(batches, log)
    finally:
        accelerator.wait_for_everyone()  # nobody clears the log before everybody has read
        if accelerator.is_main_process:
            log.stop_file.unlink(missing_ok=True)


def in_order(batches: dict[int, list[Row]], log: BatchLog) -> list[Row]:
    """The rows of every batch.

    Raises:
        Stopped: if batches are missing, since the run was asked to stop.
    """
    finished = log.load()
    if left := batches.keys() - finished.keys():
        raise Stopped(
            f"stopped: {len(batches) - len(left)} of {len(batches)} batches are on the disk beside '{log.path}'"
        )
    return [row for i in sorted(batches) for row in finished[i]]


def read_ahead(collator: ClipCollator, rows: list[Row], workers: int) -> Iterator[Clip | ClipError]:
    """The clip of each row, or why it cannot be read; with workers in children that a bad file cannot hang."""
    if workers == 0:
        for row in rows:
            try:
                yield collator.read_row(row)
            except ClipError as error:
                yield error
        return
    read = functools.partial(read_row, root=collator.root, frames=collator.frames, factor=collator.factor)
    for row, found in zip(rows, in_children(read, rows, workers=workers), strict=True):
        if isinstance(found, ChildError):  # the clip's fault, or its child was killed, or the disk stalled: once more
            found = next(in_children(read, [row], workers=1))
        if isinstance(found, ChildError):
            yield ClipError(row["video"], found.reason, found.detail)
        elif isinstance(found, Exception) and not isinstance(found, ClipError):
            raise found
        else:
            yield found
