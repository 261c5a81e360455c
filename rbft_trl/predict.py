"""Labels for new clips from a trained checkpoint: label, score per label, and a reason where there is none.

Input: a checkpoint and clips (files and folders). Output: CSV or JSON Lines, one row per clip.
Command: python rbft_trl/predict.py --model outputs/run/stage2 clips/ more/*.mp4
"""

import argparse
import csv
import io
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from filelock import FileLock, Timeout

from rbft_trl.batches import fixed_batches, run_batches, start_processes
from rbft_trl.classifier import Checkpoint, VideoClassifier
from rbft_trl.data.given import find_clips
from rbft_trl.data.jsonl import BatchLog, make_folder, write_jsonl, write_text
from rbft_trl.engines import check_whole_model
from rbft_trl.errors import UserError, at_least, run_entry
from rbft_trl.evidence.calibration import threshold_for
from rbft_trl.model.stop import ending

Row = dict[str, Any]


def main(argv: list[str]) -> list[Row]:
    """Predicts; returns the rows that were written."""
    args = parse(argv)
    check_whole_model(use_cpu=args.use_cpu)
    output = Path(args.output)
    if output.suffix not in (".csv", ".jsonl"):
        raise UserError(f"--output '{output}' ends in '{output.suffix}'; write a .csv or .jsonl file")
    if output.exists():
        raise UserError(f"--output '{output}' exists; delete it or name another file")
    checkpoint = Checkpoint.open(args.model, revision=args.revision, base=args.base)
    threshold = find_threshold(args, checkpoint)
    clips = find_clips(args.clips)
    if checkpoint.record.get("uses_text") and not all(row["context"] for row in clips):
        warnings.warn(
            f"'{checkpoint.folder}' was trained with the text beside each clip, and some clips have none here; give a "
            "table with the columns video and text",
            stacklevel=1,
        )
    make_folder(output.parent)

    accelerator = start_processes(use_cpu=args.use_cpu)
    with ending(accelerator), alone(output) if accelerator.is_main_process else nullcontext():
        return run(args, checkpoint, clips, threshold, accelerator)


def run(
    args: argparse.Namespace, checkpoint: Checkpoint, clips: list[Row], threshold: float, accelerator: Accelerator
) -> list[Row]:
    """Reads and scores what a stopped run has not, then writes all rows."""
    output = Path(args.output)
    log = BatchLog(output, settings_of(args, checkpoint), rank=accelerator.process_index)
    finished = log.load()
    states = {row["id"]: row["state"] for row in clips}
    logged = {row["id"]: row for rows in finished.values() for row in rows}
    done = {name for name, row in logged.items() if row.get("state") == states.get(name)}
    left = [row for row in clips if row["id"] not in done and row["refused"] is None]
    accelerator.wait_for_everyone()  # all processes number their batches from the same log
    started = time.perf_counter()
    classifier = VideoClassifier.from_checkpoint(checkpoint, device=accelerator.device, batch_size=args.batch_size)
    loaded = time.perf_counter()
    run_batches(
        lambda _, pairs: classifier.read_batch(pairs, rationale_tokens=args.max_new_tokens if args.rationale else 0),
        fixed_batches(left, args.batch_size, first=max(finished, default=-1) + 1),
        log,
        accelerator,
        classifier.collator,
        title="predicting",
        workers=args.workers,
    )
    seconds = time.perf_counter() - loaded
    by_id = {row["id"]: {"id": row["id"], "error": row["refused"]} for row in clips}
    by_id |= {row["id"]: row for _, rows in sorted(log.load().items()) for row in rows}  # what was read last counts
    accelerator.wait_for_everyone()  # nobody clears the log before everybody has read
    rows = [decide(by_id[row["id"]], threshold) for row in clips]
    if accelerator.is_main_process:
        write(rows, output, classifier.scorer.names, rationale=args.rationale)
        log.clear()
        bad, unsure = sum(row["error"] is not None for row in rows), sum(row["abstained"] for row in rows)
        print(
            f"{len(rows)} clips: {len(rows) - bad - unsure} labelled, {unsure} below the threshold, {bad} unreadable"
        )
        if args.rationale and (none := sum(row["error"] is None and not row["rationale"] for row in rows)):
            print(f"{none} clips have no rationale: the model wrote a class name alone, as it was trained to do last")
        if left:
            print(
                f"{len(left) / seconds:.1f} clips/s after {loaded - started:.1f} s of loading; written to '{output}'"
            )
    accelerator.wait_for_everyone()
    return rows


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", help="clips, or folders of clips")
    parser.add_argument("--model", required=True, help="folder of a trained stage, or its id on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--base", help="where the base is now, if not where it was in training")
    parser.add_argument("--output", default="predictions.csv", help=".csv or .jsonl to write [predictions.csv]")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--threshold", type=float, help="no label for clips whose best score is lower")
    cut.add_argument("--precision", type=float, help="the threshold that gave this precision on validation")
    parser.add_argument("--rationale", action="store_true", help="also let the model write about each clip")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="longest rationale [256]")
    parser.add_argument("--batch_size", type=int, default=8, help="clips per batch [8]")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that read clips, each with a limit of time "
        "and memory; 0 reads in this process, without limits [1]",
    )
    parser.add_argument("--use_cpu", action="store_true", help="run on the CPU even if there is a GPU")
    args = parser.parse_args(argv)
    for name, value in (("threshold", args.threshold), ("precision", args.precision)):
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name} is {value} but must be a share from 0 to 1")
    at_least(1, batch_size=args.batch_size, max_new_tokens=args.max_new_tokens)
    at_least(0, workers=args.workers)
    return args


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Refuses a second run that would write the same file at the same time.

    Raises:
        UserError: if another one is writing.
    """
    lock = FileLock(output.with_name(f".{output.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another process is writing '{output}'; wait for it, or name another file") from error
    try:
        yield
    finally:
        lock.release()


def find_threshold(args: argparse.Namespace, checkpoint: Checkpoint) -> float:
    """The threshold that was given, or the one that reached the wanted precision on validation."""
    if args.precision is None:
        return args.threshold or 0.0
    calibration = checkpoint.calibration
    if "confidence" not in calibration:
        raise UserError(
            f"--precision needs validation scores, and '{checkpoint.folder}' has none; run rbft_trl/eval.py with "
            "--split validation --calibrate true first, or give a --threshold"
        )
    threshold, above, right = threshold_for(args.precision, calibration)
    print(
        f"threshold {threshold:.3f}: of {calibration['n']} validation clips {above} are above it, and {right} of them "
        f"were right ({right / above:.0%})"
    )
    return threshold


def settings_of(args: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, Any]:
    """What finished batches depend on; the threshold is applied afterwards and may change."""
    return {
        "model": checkpoint.record["weights"],
        "base": checkpoint.record["base"],
        "temperature": checkpoint.calibration["temperature"],
        "rationale": args.max_new_tokens if args.rationale else 0,
    }


def decide(row: Row, threshold: float) -> Row:
    """The best label, or none where the clip could not be read or the score is below the threshold."""
    scores = row.get("scores") or {}
    best = max(scores, key=scores.__getitem__) if scores else None
    abstained = best is not None and scores[best] < threshold
    return {
        "clip": row["id"],
        "label": None if abstained else best,
        "score": scores[best] if best is not None else None,
        "abstained": abstained,
        "error": row["error"],
        "scores": scores,
    } | ({"rationale": row["rationale"]} if "rationale" in row else {})


def no_formula(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a quote before = + - @."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t")) else cell


def write(rows: list[Row], output: Path, names: list[str], *, rationale: bool) -> None:
    """JSON Lines as the rows are; in CSV each label's score is a column `score: LABEL`."""
    if output.suffix == ".jsonl":
        write_jsonl(output, rows)
        return
    stream = io.StringIO(newline="")
    plain = ["clip", "label", "score", "abstained", "error", *(["rationale"] if rationale else [])]
    writer = csv.writer(stream)
    writer.writerow(plain + [f"score: {name}" for name in names])
    for row in rows:
        writer.writerow([no_formula(row.get(key)) for key in plain] + [row["scores"].get(name) for name in names])
    write_text(output, stream.getvalue())


if __name__ == "__main__":
    run_entry(main)
