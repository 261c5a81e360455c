"""Rationales for a person to look through: a page and a CSV with frames, texts and verdicts, and the way back.

Input: rationales.jsonl and its task card, or with --apply the corrected CSV. Output: a folder, or reviewed.jsonl.
Command: python rbft_trl/review.py rationales.jsonl --task recipes/tasks/my_task.yaml --output outputs/sheet
"""

import argparse
import random
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from rbft_trl.data.jsonl import make_folder, numbered_jsonl, read_json, write_json, write_jsonl, write_text
from rbft_trl.data.rows import load_rows
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import ClipError, FrameSettings, read_row
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.page import strip, write_page
from rbft_trl.evidence.sheet import COLUMNS, apply_decisions, read_decisions, to_csv
from rbft_trl.evidence.verify import VERDICTS, kept_share

Sample = dict[str, Any]
FACTOR = 28  # what frames are cut to; pictures for people need no base
NEEDED = ("id", "video", "text", "verdict")
MOST = 300


def main(argv: list[str]) -> None:
    """Writes the sheet, or takes a corrected one back."""
    args = parse(argv)
    lines = numbered_jsonl(args.rationales, by_user=True)
    seen = set()
    for number, sample in lines:
        place = f"{args.rationales}:{number}"
        check_sample(sample, place)
        if (key := (sample["id"], sample.get("sample", 0))) in seen:
            raise UserError(f"{place}: clip '{key[0]}', sample {key[1]} stands twice; remove one")
        seen.add(key)
    samples = [sample for _, sample in lines]
    if not samples:
        raise UserError(f"'{args.rationales}' holds no rationale; name a file of rbft_trl/rationales.py")
    if args.apply:
        take_back(args, samples)
    else:
        write_sheet(args, samples)


def check_sample(sample: Sample, place: str) -> None:
    """What the sheet shows of a row must be there, and be text.

    Raises:
        UserError: naming the key.
    """
    for key in (*NEEDED, "label"):
        if key not in sample:
            raise UserError(f"{place}: '{key}' is missing; write it with rbft_trl/rationales.py")
        if not isinstance(sample[key], str) and (key in NEEDED or sample[key] is not None):
            raise UserError(
                f"{place}: '{key}' is {sample[key]!r} but must be text; correct the line, or write it with "
                "rbft_trl/rationales.py"
            )
    if sample["verdict"] not in VERDICTS:
        raise UserError(
            f"{place}: 'verdict' is '{sample['verdict']}' but must be one of {', '.join(VERDICTS)}; correct it"
        )
    if type(sample.get("sample", 0)) is not int:
        raise UserError(f"{place}: 'sample' is {sample['sample']!r} but must be a number; correct it")


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rationales", type=Path, help="rationales.jsonl of stage 0")
    parser.add_argument("--task", type=Path, help="its task card; with --apply only open answers need it")
    parser.add_argument("--output", type=Path, help="folder of the sheet: review.html, review.csv and the frames")
    parser.add_argument("--most", type=int, help="rationales on the sheet, drawn by chance if there are more [300]")
    parser.add_argument("--apply", type=Path, help="the corrected CSV")
    parser.add_argument(
        "--output_file", type=Path, help="with --apply: the rationales for stage 1, e.g. reviewed.jsonl"
    )
    args = parser.parse_args(argv)
    if args.most is not None and (args.most < 1 or args.apply):
        raise UserError(
            f"--most is {args.most}, but it is the number of rationales on a new sheet, from 1 upwards; leave it out"
            + (" with --apply" if args.apply else f" for {MOST}")
        )
    args.most = args.most or MOST
    if args.apply and (args.output_file is None or args.output):
        raise UserError(
            "--apply takes the corrected CSV and needs --output_file, e.g. reviewed.jsonl, and no --output"
        )
    if not args.apply and (args.task is None or args.output is None or args.output_file):
        raise UserError("give --task and --output for a sheet, or --apply and --output_file to take one back")
    return args


def write_sheet(args: argparse.Namespace, samples: list[Sample]) -> None:
    """The page, the CSV and one strip of frames per clip."""
    card = TaskCard.from_yaml(args.task)
    if card.data is None:
        raise UserError(f"{card.path}: 'data' is missing; name the folder of the clips as data.root")
    rows = {row["id"]: row for row in load_rows(card)}
    if (args.output / "review.csv").exists():
        raise UserError(f"'{args.output}' holds a sheet already, perhaps with corrections; choose another --output")
    for sample in samples:
        if sample["id"] not in rows:
            raise UserError(
                f"{args.rationales}: clip '{sample['id']}' is not in the data of {card.path}; name its own card"
            )
    make_folder(args.output / "frames")
    places = sorted(random.Random(0).sample(range(len(samples)), min(args.most, len(samples))))
    chosen = [samples[place] for place in places]
    pictures = save_pictures(chosen, rows, card, frames_of(args.rationales), args.output)
    told = [verdict_of(sample) for sample in chosen]
    seen = [sample | {"sample": sample.get("sample", 0), "label": sample["label"] or ""} for sample in chosen]
    blank = {"shown": False, "reviewed": False, "prompt": None, "picture": None, "unread": None}
    view = {
        "task": card.name,
        "command": shlex.join([str(args.rationales), "--task", str(args.task)]),
        "line": card.final_line("label"),
        "counts": f"{len(chosen)} of {len(samples)} rationales.",
        "columns": COLUMNS,
        "reasons": [name for name, _ in Counter(told).most_common()],
        "rows": [blank | row | {"reason": row.get("reason") or ""} | pictures[row["id"]] for row in seen],
    }
    write_text(args.output / "review.csv", to_csv(seen))
    write_page("review.html", args.output / "review.html", view)
    print(
        f"{len(chosen)} of {len(samples)} rationales: open '{args.output / 'review.html'}', or edit review.csv there"
    )


def save_pictures(
    chosen: list[Sample], rows: dict[str, Any], card: TaskCard, frames: FrameSettings, folder: Path
) -> dict[str, dict[str, str]]:
    """Per clip its strip of frames as a file below the page, or why it cannot be read."""
    pictures: dict[str, dict[str, str]] = {}
    for clip in dict.fromkeys(sample["id"] for sample in chosen):
        name = f"frames/{len(pictures):05d}.jpg"
        try:
            found = read_row(rows[clip], root=card.data.root, frames=frames, factor=FACTOR)
            strip(found.frames, columns=4).save(folder / name, quality=85)
            pictures[clip] = {"picture": name}
        except ClipError as error:
            pictures[clip] = {"unread": str(error)}
    return pictures


def frames_of(rationales: Path) -> FrameSettings:
    """The frames that the base saw, if stage 0 left its summary."""
    summary = rationales.with_suffix(".summary.json")
    made = read_json(summary) if summary.is_file() else {}
    return FrameSettings.from_dict(made["frames"]) if "frames" in made else FrameSettings()


def verdict_of(sample: Sample) -> str:
    """`dropped: wrong_label`, or the verdict alone."""
    return f"{sample['verdict']}: {sample['reason']}" if sample.get("reason") else sample["verdict"]


def take_back(args: argparse.Namespace, samples: list[Sample]) -> None:
    """Writes the rationales with the decisions of a person, and the summary beside them."""
    if args.output_file.resolve() == args.rationales.resolve():
        raise UserError(f"--output_file '{args.output_file}' is what is reviewed; choose another name")
    if args.output_file.is_dir():
        raise UserError(f"--output_file '{args.output_file}' is a folder; name a file in it, e.g. reviewed.jsonl")
    # The card's parser, or the same over the labels of this file: a sheet can be taken back without the card.
    labels = dict.fromkeys((sample["label"] for sample in samples if sample["label"] is not None), "")
    card = TaskCard.from_yaml(args.task, with_data=False) if args.task else TaskCard("", labels, "", "", (), {})
    reviewed = apply_decisions(samples, read_decisions(args.apply), card)
    make_folder(args.output_file.parent)
    summary = args.rationales.with_suffix(".summary.json")
    decided = [row for row in reviewed if row.get("reviewed")]
    kept = sum(row["verdict"] != "dropped" for row in decided)
    if summary.is_file():
        note = {"reviewed": {"kept": kept, "dropped": len(decided) - kept}, "kept": kept_share(reviewed, card)}
        write_json(args.output_file.with_suffix(".summary.json"), read_json(summary) | note)
    write_jsonl(args.output_file, reviewed)
    print(f"'{args.output_file}': {len(decided)} of {len(reviewed)} rationales reviewed, {kept} of them kept")


if __name__ == "__main__":
    run_entry(main)
