"""Stage 0: the base writes rationales for training clips; each is checked, and kept or dropped with a reason.

Input: a recipe and the clips of its task card. Output: rationales.jsonl and rationales.summary.json beside it.
Command: accelerate launch rbft_trl/rationales.py recipes/rationales.yaml
"""

import dataclasses
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from rbft_trl.batches import Pairs, fixed_batches, run_batches
from rbft_trl.configs import DataArguments, ModelArguments, RationaleArguments
from rbft_trl.data.jsonl import BatchLog, first_difference, make_folder, read_json, read_jsonl, write_json, write_jsonl
from rbft_trl.data.task import TaskCard, fingerprint
from rbft_trl.data.video import ClipError
from rbft_trl.engines import check_whole_model
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.verify import check_rationales, kept_share, require_every_class
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.inference import prefill, write
from rbft_trl.model.loading import base_fingerprint, check_model_arguments, load_base
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import Row, open_task

Sample = dict[str, Any]
NOT_PART_OF_THE_TEXT = ("output_file", "use_cpu", "checks", "dataloader_num_workers")


def main(argv: list[str]) -> list[Sample]:
    """Runs stage 0; returns the rows of rationales.jsonl."""
    data, base, args = parse_recipe(argv, DataArguments, ModelArguments, RationaleArguments)
    check_whole_model(use_cpu=args.use_cpu)
    check_model_arguments(base, use_cpu=args.use_cpu)
    task = open_task(data, base)
    card = task.card
    clips = [row for row in task.rows if row["split"] == "train" and (row["label"] is not None or args.use_pool)]
    if not clips:
        raise UserError(f"{card.path}: no training clip to write a rationale for; check the split column")
    settings = {
        "card": card.fingerprint(),
        "base": base_fingerprint(base.model_name_or_path, base.model_revision),
        "precision": [base.dtype, base.load_in_4bit, base.attn_implementation],
        "frames": task.frames.to_dict(),
        "definitions": data.definitions,
        "clips": task.fingerprint(clips),
        "stage0": {k: v for k, v in dataclasses.asdict(args).items() if k not in NOT_PART_OF_THE_TEXT},
    }
    if args.label_shown == "blind_then_hint":
        settings["hinted_after"] = hint_mode(args)
    output = Path(args.output_file)
    accelerator = Accelerator(cpu=args.use_cpu)
    if output.exists():
        return reuse(output, settings, card, args, is_main=accelerator.is_main_process)
    make_folder(output.parent)
    set_seed(args.seed)
    log = BatchLog(output, settings, rank=accelerator.process_index)
    writer = Writer(accelerator, task.collator(), base, args, log)

    samples = writer.run_pass(clips, shown=args.label_shown == "hint", first=0)
    if args.label_shown == "blind_then_hint":
        checked = check_rationales(samples, card, mode=hint_mode(args))
        done = {s["id"] for s in checked if s["verdict"] == "kept"}
        failed = [row for row in clips if row["label"] is not None and row["id"] not in done]
        samples += writer.run_pass(failed, shown=True, first=len(fixed_batches(clips, args.per_device_batch_size)))

    if accelerator.is_main_process:
        samples = finish(samples, output, settings, card, args)
        log.clear()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    require_every_class(read_jsonl(output), card)
    return samples


def hint_mode(args: RationaleArguments) -> str:
    """The checks that a blind rationale must pass so that its clip gets no hint."""
    return "label_match" if args.checks == "none" else args.checks


class Writer:
    """Writes rationales batch by batch; every finished batch is on the disk before the next begins."""

    def __init__(
        self,
        accelerator: Accelerator,
        collator: ClipCollator,
        base: ModelArguments,
        args: RationaleArguments,
        log: BatchLog,
    ) -> None:
        self.accelerator, self.collator, self.args, self.log, self.base = accelerator, collator, args, log, base
        self.model = None

    def run_pass(self, rows: list[Row], *, shown: bool, first: int) -> list[Sample]:
        """One pass over `rows`, shared over the processes; returns the samples of all of them."""
        batches = fixed_batches(rows, self.args.per_device_batch_size, first=first)
        if self.model is None and not set(batches) <= set(self.log.load()):
            self.model = load_base(self.base, device=self.accelerator.device).eval()
        return run_batches(
            lambda number, pairs: self._write_batch(number, pairs, shown=shown),
            batches,
            self.log,
            self.accelerator,
            self.collator,
            title="rationales, label shown" if shown else "rationales",
            workers=self.args.dataloader_num_workers,
        )

    def _write_batch(self, number: int, pairs: Pairs, *, shown: bool) -> list[Sample]:
        for _, clip in pairs:
            if isinstance(clip, ClipError):
                raise clip
        args, collator = self.args, self.collator
        rows = [row for row, _ in pairs]
        hints = [row["label"] if shown else None for row in rows]
        prompts = [collator.rationale_prompt(row, hint) for row, hint in zip(rows, hints, strict=True)]
        # Without the text of the single clip, so that all rows of one kind carry the same fingerprint.
        asked = [collator.card.rationale_prompt(hint, definitions=collator.definitions) for hint in hints]
        seed = args.seed * 1_000_003 + number
        read = prefill(self.model, collator.prompts(rows, prompts, clips=[clip for _, clip in pairs]))
        decoding = {k: getattr(args, k) for k in ("temperature", "top_p", "max_new_tokens")}
        texts, cut = write(self.model, read, collator, num_samples=args.num_samples, seed=seed, **decoding)
        offset = args.num_samples if shown and args.label_shown == "blind_then_hint" else 0
        return [
            {
                "id": row["id"],
                "video": row["video"],
                "label": row["label"],
                "sample": offset + k,
                "prompt_fingerprint": fingerprint(asked[i]),
                "shown": shown and row["label"] is not None,
                "decoding": decoding,
                "seed": seed,
                "text": texts[i * args.num_samples + k],
                "cut": cut[i * args.num_samples + k],
            }
            for i, row in enumerate(rows)
            for k in range(args.num_samples)
        ]


def finish(
    samples: list[Sample], output: Path, settings: dict[str, Any], card: TaskCard, args: RationaleArguments
) -> list[Sample]:
    """Checks all samples, writes the file and the kept share per class, and prints the share."""
    samples = check_rationales(sorted(samples, key=lambda s: (s["id"], s["sample"])), card, mode=args.checks)
    kept = kept_share(samples, card)
    write_json(summary_file(output), settings | {"checks": args.checks, "kept": kept})
    write_jsonl(output, samples)  # last: where it stands, the step is complete
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
    if key := first_difference(made, settings, among=settings):
        told = "checks" if key == "hinted_after" else key
        raise UserError(f"'{output}' exists and was made with another {told}; delete it or choose another output_file")
    print(f"'{output}' is complete: its rationales are reused, and checked again")
    samples = read_jsonl(output)
    if is_main:
        samples = finish(samples, output, settings, card, args)
    require_every_class(samples, card)
    return samples


def summary_file(output: Path) -> Path:
    """`rationales.summary.json` beside `rationales.jsonl`."""
    return output.with_suffix(".summary.json")


if __name__ == "__main__":
    run_entry(main)
