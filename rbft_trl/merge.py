"""Merges the adapter of a trained stage into 16-bit weights, if the labels of some clips stay the same.

Input: a checkpoint and clips. Output: a folder with full weights, for export, or as the `init` of a new adapter.
Command: python rbft_trl/merge.py outputs/run/stage1 --output outputs/run/stage1_merged --clips clips/
"""

import argparse
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from rbft_trl.batches import read_ahead
from rbft_trl.classifier import Checkpoint, VideoClassifier
from rbft_trl.configs import AdapterArguments
from rbft_trl.data.given import find_clips
from rbft_trl.data.jsonl import make_folder
from rbft_trl.data.video import ClipError
from rbft_trl.engines import check_alone
from rbft_trl.errors import UserError, at_least, run_entry
from rbft_trl.model.loading import load_base
from rbft_trl.model.provenance import under_adapter, weights_fingerprint, write_record

Row = dict[str, Any]


def main(argv: list[str]) -> dict[str, Any]:
    """Merges; returns the record (rbft.json) of the merged weights."""
    args = parse(argv)
    check_alone("merge.py")
    output = Path(args.output)
    if output.exists():
        raise UserError(f"--output '{output}' exists; delete it or name another folder")
    checkpoint = Checkpoint.open(args.checkpoint, base=args.base)
    record = checkpoint.record
    if not record["adapters"]["use_peft"]:
        raise UserError(f"'{args.checkpoint}' holds full weights already; there is no adapter to merge")
    clips = [row for row in find_clips(args.clips) if row["refused"] is None][: args.most]
    staging = output.with_name(f".{output.name}.merging")
    shutil.rmtree(staging, ignore_errors=True)
    make_folder(staging)  # before the work: a place that cannot be written is told now
    try:
        merged = merge(args, checkpoint, clips, staging)
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(f"merged weights in '{output}'")
    return merged


def merge(args: argparse.Namespace, checkpoint: Checkpoint, clips: list[Row], staging: Path) -> dict[str, Any]:
    """Merges and compares; writes into `staging`.

    Raises:
        UserError: if too few labels stay the same.
    """
    record = checkpoint.record
    device = "cpu" if args.use_cpu or not torch.cuda.is_available() else "cuda"
    classifier = VideoClassifier.from_checkpoint(checkpoint, device=device, batch_size=args.batch_size)
    rows, before = decide(classifier, clips)
    if record["load_in_4bit"]:  # never into NF4 weights, where 1-2 % of a small delta survive
        del classifier.model
        weights = dataclasses.replace(under_adapter(record, checkpoint.base), load_in_4bit=False, dtype="bfloat16")
        classifier.model = PeftModel.from_pretrained(load_base(weights, device=device), checkpoint.folder).eval()
    classifier.model = classifier.model.merge_and_unload(safe_merge=True)
    after = decide(classifier, [row for row, _ in rows], [clip for _, clip in rows])[1]
    kept = compare(before, after)
    tell(kept, record)
    if kept["same"] < args.min_agreement * kept["clips"]:
        raise UserError(
            f"only {kept['same']} of {kept['clips']} labels stay the same in the merged weights, e.g. of "
            f"'{kept['changed'][0]}'; nothing was written: serve base and adapter apart, or accept it with "
            "--min_agreement"
        )
    return save(classifier, checkpoint, staging, kept)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder of a trained stage, or its id on the Hub")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--clips", nargs="+", required=True, help="clips, folders or tables to compare the labels on")
    parser.add_argument("--most", type=int, default=32, help="how many of these clips at most [32]")
    parser.add_argument("--min_agreement", type=float, default=1.0, help="least share of equal labels [1.0: all]")
    parser.add_argument("--base", help="where the base is now, if not where it was in training")
    parser.add_argument("--batch_size", type=int, default=8, help="clips per batch [8]")
    parser.add_argument("--use_cpu", action="store_true", help="run on the CPU even if there is a GPU")
    args = parser.parse_args(argv)
    at_least(1, most=args.most, batch_size=args.batch_size)
    if not 0 <= args.min_agreement <= 1:
        raise UserError(f"--min_agreement is {args.min_agreement} but must be a share from 0 to 1")
    return args


def decide(
    classifier: VideoClassifier, clips: list[Row], frames: list[Any] | None = None
) -> tuple[list[tuple[Row, Any]], list[tuple[str, dict[str, float]]]]:
    """The clips that can be read, with their frames, and the scores of each.

    Raises:
        UserError: if there is none.
    """
    read = frames if frames is not None else list(read_ahead(classifier.collator, clips, workers=1))
    good = [(row, clip) for row, clip in zip(clips, read, strict=True) if not isinstance(clip, ClipError)]
    if not good:
        raise UserError(f"none of the {len(clips)} clips can be read; name others with --clips")
    scores: list[tuple[str, dict[str, float]]] = []
    for start in range(0, len(good), classifier.batch_size):
        batch = good[start : start + classifier.batch_size]
        found = classifier.scores([row for row, _ in batch], [clip for _, clip in batch])
        scores += [(row["id"], each) for (row, _), each in zip(batch, found, strict=True)]
    return good, scores


def compare(before: list[tuple[str, dict[str, float]]], after: list[tuple[str, dict[str, float]]]) -> dict[str, Any]:
    """How many labels are the same, and the largest change of a score.

    Returns:
        `dict`: `clips`, `same`, `changed` (ids), `largest_change` (of a label's score, from 0 to 1).
    """
    changed, largest = [], 0.0
    for (name, first), (_, second) in zip(before, after, strict=True):
        if max(first, key=first.__getitem__) != max(second, key=second.__getitem__):
            changed.append(name)
        largest = max(largest, *(abs(first[label] - second[label]) for label in first))
    return {"clips": len(before), "same": len(before) - len(changed), "changed": changed, "largest_change": largest}


def tell(kept: dict[str, Any], record: dict[str, Any]) -> None:
    """Prints what the comparison found."""
    how = " (trained on 4-bit weights, merged into bf16 ones)" if record["load_in_4bit"] else ""
    print(
        f"{kept['same']} of {kept['clips']} labels are the same after merging{how}; the largest change of a score is "
        f"{kept['largest_change']:.2g}"
    )


def save(classifier: VideoClassifier, checkpoint: Checkpoint, staging: Path, kept: dict[str, Any]) -> dict[str, Any]:
    """Writes weights, processor, card and record."""
    classifier.model.save_pretrained(staging)
    classifier.collator.processor.save_pretrained(staging)
    old = checkpoint.record
    merged = {key: value for key, value in old.items() if key not in ("versions", "card")}
    parts = old["adapters"]["train_parts"]
    merged |= {
        "adapters": dataclasses.asdict(AdapterArguments(use_peft=False, train_parts=parts)),
        "load_in_4bit": False,
        "adapter_on": None,
        "recipe": old["recipe"] | {"load_in_4bit": False, "dtype": str(classifier.model.dtype).removeprefix("torch.")},
        "merged_from": {"weights": old["weights"], "adapters": old["adapters"], "load_in_4bit": old["load_in_4bit"]},
        "merged_check": kept | {"changed": len(kept["changed"])},
        "weights": weights_fingerprint(staging),
    }
    write_record(staging, classifier.collator.card, merged)
    return merged


if __name__ == "__main__":
    run_entry(main)
