"""Stage 0: the base writes rationales for training clips; each is checked, and kept or dropped with a reason.

Input: a recipe and the clips of its task card. Output: rationales.jsonl and rationales.summary.json beside it.
Command: accelerate launch rbft_trl/rationales.py recipes/rationales.yaml
"""

import dataclasses
import warnings
from pathlib import Path
from statistics import quantiles
from typing import Any

from accelerate.utils import set_seed

from rbft_trl.batches import fixed_batches, start_processes
from rbft_trl.checklist import ChecklistWriter, check_checklist
from rbft_trl.configs import DataArguments, ModelArguments
from rbft_trl.data.jsonl import (
    BatchLog,
    check_folder,
    first_difference,
    make_folder,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from rbft_trl.data.task import TaskCard
from rbft_trl.engines import check_whole_model
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.checklist import compose
from rbft_trl.evidence.support import Limits
from rbft_trl.evidence.verify import check_rationales, kept_share, require_every_class
from rbft_trl.model.loading import base_fingerprint, check_base, check_model_arguments
from rbft_trl.model.provenance import check_same, check_unseen, read_record, under_adapter
from rbft_trl.model.stop import ending
from rbft_trl.rationale_config import ASKED, NOT_PART_OF_THE_TEXT, OF_THE_CHECKS, RationaleArguments
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import Task, open_task
from rbft_trl.writers import UNVERIFIED, Sample, ServerWriter, Writer, connect


def main(argv: list[str]) -> list[Sample]:
    """Runs stage 0; returns the rows of rationales.jsonl."""
    data, base, args = parse_recipe(argv, DataArguments, ModelArguments, RationaleArguments)
    output = Path(args.output_file)
    check_folder(output.parent)
    if args.server_url is None:
        check_whole_model(use_cpu=args.use_cpu)
        check_model_arguments(base, use_cpu=args.use_cpu)
    else:
        check_base(base)
    server = connect(base, args) if args.server_url and not output.exists() else None
    task = open_task(data, base)
    card = task.card
    if args.writer == "checklist":
        check_checklist(card)
    if card.is_open and args.rebuild != "none":
        raise UserError(f"rebuild: {args.rebuild} scores classes, but {card.path} has open answers; leave it out")
    if card.is_open and args.hint != "gold":
        raise UserError(f"hint: {args.hint} shows another class, but {card.path} has open answers; leave it out")
    clips = [row for row in task.rows if row["split"] == "train" and (row["label"] is not None or args.use_pool)]
    if not clips:
        raise UserError(f"{card.path}: no training clip to write a rationale for; check the split column")
    weights, record = base, None
    if args.checkpoint:
        record = checkpoint_of(args.checkpoint, task, base)
        weights = under_adapter(record, base)
    settings = {
        "card": card.fingerprint(),
        "base": base_fingerprint(base.model_name_or_path, base.model_revision),
        **written_by(base, args),
        "frames": task.frames.to_dict(),
        "definitions": data.definitions,
        "clips": task.fingerprint(clips),
    }
    if record:
        settings["checkpoint"] = record["weights"]
    if args.label_shown == "blind_then_hint":
        settings["hinted_after"] = hint_mode(args)
    if args.writer == "checklist":
        settings["checklist"] = card.checklist_fingerprint()
    accelerator = start_processes(use_cpu=args.use_cpu)
    with ending(accelerator):
        if output.exists():
            return reuse(output, settings, card, args, is_main=accelerator.is_main_process)
        make_folder(output.parent)
        set_seed(args.seed)
        scored = {"rebuild": "model"} if args.rebuild == "model" else {}  # in the rows: other thresholds need no model
        log = BatchLog(output, settings | scored, rank=accelerator.process_index)
        if args.writer == "checklist":
            writer = ChecklistWriter(accelerator, task.collator(), weights, args, log)
        elif server:
            writer = ServerWriter(server, task.collator(), args, log)
        else:
            writer = Writer(accelerator, task.collator(), weights, args, log)

        samples = writer.run_pass(clips, shown=args.label_shown == "hint", first=0)
        if args.label_shown == "blind_then_hint":
            checked = check_rationales(samples, card, mode=hint_mode(args), limits=alone(limits_of(args)))
            done = {s["id"] for s in checked if s["verdict"] == "kept"}
            failed = [row for row in clips if row["label"] is not None and row["id"] not in done]
            samples += writer.run_pass(failed, shown=True, first=len(fixed_batches(clips, writer.batch_size)))

        if accelerator.is_main_process:
            samples = finish(samples, output, settings, card, args)
            log.clear()
        accelerator.wait_for_everyone()
        require_every_class(read_jsonl(output), card)
        return samples


def checkpoint_of(folder: str, task: Task, base: ModelArguments) -> dict[str, Any]:
    """The record of a trained stage that is to write, if it fits the recipe.

    Raises:
        UserError: if it learned bare labels, has another base, labels, prompts or frames, or saw held-out clips.
    """
    record = read_record(folder)
    if record["target"] == "label":
        raise UserError(f"checkpoint '{folder}' was trained on bare labels and writes no rationales; name a stage 1")
    same = {"base": base_fingerprint(base.model_name_or_path, base.model_revision), "frames": task.frames.to_dict()}
    same |= {"definitions": task.definitions, "load_in_4bit": base.load_in_4bit}
    check_same(record, folder, task.card, **same)
    for split in ("validation", "test"):
        check_unseen(record, folder, task.rows, task.manifest, split)
    return record


def written_by(base: ModelArguments, args: RationaleArguments) -> dict[str, Any]:
    """What the texts depend on beside base, data and prompt: precision and batches, or the model on a server."""
    stage0 = {k: v for k, v in dataclasses.asdict(args).items() if k not in NOT_PART_OF_THE_TEXT}
    for key in ASKED:
        if stage0[key] == args.__dataclass_fields__[key].default:
            del stage0[key]
    if args.server_url is None:
        return {"precision": [base.dtype, base.load_in_4bit, base.attn_implementation], "stage0": stage0}
    stage0.pop("per_device_batch_size")
    return {"server": {"model": args.server_model or base.model_name_or_path}, "stage0": stage0}


def hint_mode(args: RationaleArguments) -> str:
    """The checks that a blind rationale must pass so that its clip gets no hint."""
    return "label_match" if args.checks == "none" else args.checks


def limits_of(args: RationaleArguments) -> Limits:
    """The thresholds of the recipe."""
    return Limits(args.rebuild, args.rebuild_margin, args.min_agreement)


def alone(limits: Limits) -> Limits:
    """Those that judge one text by itself: whether a clip gets a hint must not depend on the other clips."""
    return Limits(limits.rebuild if limits.rebuild == "model" else "none", limits.rebuild_margin)


def finish(
    samples: list[Sample], output: Path, settings: dict[str, Any], card: TaskCard, args: RationaleArguments
) -> list[Sample]:
    """Checks all samples, writes the file and the kept share per class, and prints the share."""
    samples = sorted(samples, key=lambda s: (s["id"], s["sample"]))
    if args.writer == "checklist":
        samples = compose(samples, card, margin=args.checklist_margin)
    limits = limits_of(args)
    samples = check_rationales(samples, card, mode=args.checks, limits=limits)
    kept = kept_share(samples, card)
    note = {"note": UNVERIFIED} if args.server_url else {}
    limits = {key: getattr(args, key) for key in OF_THE_CHECKS}
    write_json(summary_file(output), settings | limits | {"kept": kept, "samples": len(samples)} | note)
    write_jsonl(output, samples)  # last: where it stands, the step is complete
    if known := [sample["agreement"] for sample in samples if "agreement" in sample]:
        low, middle, high = quantiles(known, n=4)
        print(f"agreement of a clip's samples, quartiles: {low:.2f}, {middle:.2f}, {high:.2f}")
    for name, share in kept.items():
        print(f"rationales kept, {name}: {share['kept']} of {share['total']}")
    return samples


def reuse(
    output: Path, settings: dict[str, Any], card: TaskCard, args: RationaleArguments, *, is_main: bool
) -> list[Sample]:
    """A finished file with the same settings is checked anew (that is cheap) instead of written anew."""
    file = summary_file(output)
    made = read_json(file) if file.is_file() else {}
    if not made:
        raise UserError(f"'{output}' exists and no stage 0 has written it; choose another output_file")
    if key := first_difference(made, settings, among={**settings, "checkpoint": None, "checklist": None}):
        told = "checks" if key == "hinted_after" else key
        raise UserError(
            f"'{output}' exists and was made with other settings ({told}); delete it or choose another output_file"
        )
    print(f"'{output}' is complete: its rationales are reused, and checked again")
    samples = read_jsonl(output)
    if (wrote := made.get("samples", len(samples))) != len(samples):  # cut, or edited, which a person may do
        warnings.warn(
            f"'{output}' has {len(samples)} rationales, its step wrote {wrote}; they are used as they stand, delete "
            "the file to write all again",
            stacklevel=2,
        )
    if is_main:
        samples = finish(samples, output, settings, card, args)
    require_every_class(samples, card)
    return samples


def summary_file(output: Path) -> Path:
    """`rationales.summary.json` beside `rationales.jsonl`."""
    return output.with_suffix(".summary.json")


if __name__ == "__main__":
    run_entry(main)
