"""Rates every check of rationales against the truth, which is known on the toy domain, and writes the tables.

Input: the base. Output: docs/rationales.json and the tables of docs/rationales.md between their marks.
Command: python toy/rate_checks.py
"""

import argparse
import csv
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed

from rbft_trl.checklist import ChecklistWriter
from rbft_trl.configs import DataArguments, ModelArguments
from rbft_trl.data.jsonl import BatchLog, read_jsonl, write_text
from rbft_trl.errors import run_entry
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.start import Task, open_task
from rbft_trl.writers import Writer
from toy.clips import main as make_clips
from toy.corpus import KNOWN
from toy.measure import CARD
from toy.rates import Rater
from toy.rates_text import tables
from toy.scenes import FRAMES, LABELS

REPOSITORY = Path(__file__).resolve().parents[1]
SHIFTS = (0.2, 0.5, 0.65)
SAMPLES, TEMPERATURE = 4, 0.7
PLANTED = 208
BEGIN, END = "<!-- written by toy/rate_checks.py -->", "<!-- end -->"
Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Writes rationales for small sets of clips at several shifts and rates the checks on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=REPOSITORY / "toy/base")
    parser.add_argument("--checkpoint", help="a stage 1 on other clips that writes and judges instead of the base")
    parser.add_argument("--seed", type=int, default=0, help="of the clips")
    parser.add_argument("--labelled", type=int, default=27, help="clips per class, of 8 classes, and shift")
    parser.add_argument("--pool", type=int, default=96, help="clips without a label per shift")
    parser.add_argument("--planted", type=int, default=PLANTED, help="faults of each kind")
    parser.add_argument("--shifts", type=float, nargs="+", default=SHIFTS)
    parser.add_argument("--docs", type=Path, default=REPOSITORY / "docs")
    args = parser.parse_args(argv)
    rater = Rater(planted=args.planted)
    for shift in args.shifts:
        with tempfile.TemporaryDirectory() as folder:
            for names, task, base in tasks(Path(folder), shift, args):
                add(rater, shift, names, task, base, Path(folder), checkpoint=args.checkpoint)
    rated = rater.rated() | {"clips": {"labelled": 8 * args.labelled, "pool": args.pool}, "samples": SAMPLES}
    rated |= {"temperature": TEMPERATURE, "shifts": args.shifts, "planted": args.planted}
    write_text(args.docs / "rationales.json", json.dumps(rated, separators=(",", ":")) + "\n")
    page = args.docs / "rationales.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    write_text(page, f"{before}{BEGIN}\n{tables(rated)}{END}{rest.split(END, 1)[1]}")
    print(f"tables written to '{page}'")


def tasks(folder: Path, shift: float, args: argparse.Namespace) -> list[tuple[str, Task, ModelArguments]]:
    """The clips of one shift under made-up names, and under names that the base knows as a large model knows words."""
    counts = ["--labelled", str(args.labelled), "--pool", str(args.pool), "--validation", "8", "--test", "8"]
    counts += ["--seed", str(args.seed)]
    make_clips(["--out", str(folder / "clips"), "--shift", str(shift), "--workers", "1", *counts])
    raw = yaml.safe_load(CARD.read_text(encoding="utf-8"))
    raw["data"] = {"root": str(folder / "clips"), "annotations": "clips.csv"}
    known = {name: KNOWN["size", "motion"][pair] for name, pair in LABELS.items()}
    with (folder / "clips/clips.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (folder / "clips/known.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": known.get(row["label"], "")} for row in rows)
    base = ModelArguments(model_name_or_path=str(args.base), dtype="float32")
    found = []
    for names, table, renamed in (("made up", "clips.csv", {}), ("known", "known.csv", known)):
        card = raw | {"labels": {renamed.get(name, name): text for name, text in raw["labels"].items()}}
        card["data"] = raw["data"] | {"annotations": table}
        for question in card["checklist"]:
            if isinstance(question["answers"], dict):
                tied = question["answers"].items()
                question["answers"] = {a: [renamed.get(name, name) for name in labels] for a, labels in tied}
        (folder / f"{names}.yaml").write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
        data = DataArguments(task=str(folder / f"{names}.yaml"), definitions=False, **FRAMES)
        found.append((names, open_task(data, base), base))
    return found


def add(
    rater: Rater,
    shift: float,
    names: str,
    task: Task,
    base: ModelArguments,
    folder: Path,
    *,
    checkpoint: str | None,
) -> None:
    """Writes rationales of one set in every way, and hands them to the rater."""
    truth = {row["id"]: row for row in read_jsonl(task.root / "attributes.jsonl")}
    clips = [row for row in task.rows if row["split"] == "train"]
    labelled = [row for row in clips if row["label"]]
    common: dict[str, Any] = {"output_file": str(folder / "r.jsonl"), "use_cpu": True, "per_device_batch_size": 64}
    common |= {"checkpoint": checkpoint}
    free = RationaleArguments(
        **common, num_samples=SAMPLES, temperature=TEMPERATURE, max_new_tokens=40, rebuild="model"
    )
    accelerator = Accelerator(cpu=True)
    for told, rows, shown in (("blind", clips, False), ("hint", labelled, True)):
        set_seed(0)
        log = BatchLog(folder / f"{names}_{told}.jsonl", {}, rank=0)
        samples = Writer(accelerator, task.collator(), base, free, log).run_pass(rows, shown=shown, first=0)
        rater.add(samples, truth, task.card, shift=shift, names=names, told=told)
    if names == "made up":
        log = BatchLog(folder / "checklist.jsonl", {}, rank=0)
        asked = dataclasses.replace(RationaleArguments(**common), writer="checklist")
        writer = ChecklistWriter(accelerator, task.collator(), base, asked, log)
        rater.add_checklist(writer.run_pass(clips, shown=False, first=0), truth, task.card, shift=shift)


if __name__ == "__main__":
    run_entry(main)
