"""Evaluation: every clip of a split gets a score per label; same code, prompt and frames for every arm.

Input: a recipe, a checkpoint (or the base). Output: predictions.jsonl, metrics.json, confusion.png.
Command: accelerate launch rbft_trl/eval.py recipes/eval.yaml
"""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rbft_trl.batches import start_processes
from rbft_trl.configs import DataArguments, EvalArguments, ModelArguments
from rbft_trl.data.jsonl import (
    BatchLog,
    check_folder,
    first_difference,
    make_folder,
    read_json,
    write_json,
    write_jsonl,
)
from rbft_trl.data.task import TaskCard
from rbft_trl.engines import check_whole_model
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.answers import open_metrics
from rbft_trl.evidence.calibration import CALIBRATION_FILE, calibrate
from rbft_trl.evidence.metrics import compute_metrics, save_confusion_picture
from rbft_trl.evidence.outcomes import read_predictions
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.cost import base_config
from rbft_trl.model.fetch import find_checkpoint, is_hub_id
from rbft_trl.model.heads import number_of_heads
from rbft_trl.model.in_context import check_fits
from rbft_trl.model.loading import (
    base_fingerprint,
    check_model_arguments,
    check_scoring_attention,
    load_for_inference,
)
from rbft_trl.model.probe import check_pairs
from rbft_trl.model.provenance import check_other_labels, check_same, check_unseen, read_record, under_adapter
from rbft_trl.model.stop import ending
from rbft_trl.reader import REASONS_FIRST, Prediction, Reader, always
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import Row, Task, open_task

ALONE = ("score", "reason", "greedy")  # methods that look at no training clip
MEANS = ("mean_absolute_error", "mean_iou")
NOT_PART_OF_THE_RESULT = (
    "output_dir",
    "calibrate",
    "checkpoint",
    "unseen_labels",
    "use_cpu",
    "dataloader_num_workers",
)


def main(argv: list[str]) -> dict[str, Any]:
    """Evaluates one arm; returns the metrics."""
    data, base, args = parse_recipe(argv, DataArguments, ModelArguments, EvalArguments)
    output = check_folder(args.output_dir)
    plan = make_plan(data, base, args)
    if (metrics := finished(output, plan.settings)) is not None:
        predictions = read_predictions(output, ids=plan.ids)
        print(f"'{output}' is complete: its predictions are reused")
        if args.calibrate:
            store_calibration(plan, predictions)
        return metrics

    make_folder(output)
    accelerator = start_processes(use_cpu=args.use_cpu)
    with ending(accelerator):
        return run(plan, accelerator)


def run(plan: "Plan", accelerator: Accelerator) -> dict[str, Any]:
    """Reads every clip and writes the files of the evaluation."""
    args, card, output = plan.args, plan.card, Path(plan.args.output_dir)
    log = BatchLog(output / "predictions.jsonl", plan.settings, rank=accelerator.process_index)
    if args.method == "majority":
        predictions = always(plan.clips, plan.train, card, plan.unreadable)
    else:
        model = load_for_inference(plan.weights, args.checkpoint, device=accelerator.device)
        if plan.target in REASONS_FIRST and args.method == "score" and accelerator.is_main_process:
            warnings.warn(
                f"'{args.checkpoint}' was trained on rationales, not on the label prompt whose scores decide here; "
                "what it was trained to write stands under generated_accuracy",
                stacklevel=1,
            )
        read = Reader(accelerator, model, plan.collator, args, plan.target, plan.train)
        order = None if args.frame_order == "original" else args.frame_order
        predictions = read.run([row | {"order": order} for row in plan.clips], log)
    told = {"frame_order": args.frame_order, "settings": plan.settings}
    if card.is_open:
        figures = open_metrics(predictions, card.answer, ids=plan.ids)
    else:
        figures = compute_metrics(predictions, card.names, ids=plan.ids)
    metrics = json.loads(json.dumps(figures | told))
    if accelerator.is_main_process:
        write_files(output, predictions, metrics, card)
        if cut := sum(p["generated_cut"] for p in predictions):
            warnings.warn(
                f"{cut} of {len(predictions)} greedy answers were cut at max_new_tokens = {args.max_new_tokens} and "
                "may lack their label; raise it",
                stacklevel=1,
            )
        log.clear()
        if args.calibrate:
            store_calibration(plan, predictions)
    return metrics


@dataclasses.dataclass
class Plan:
    """One evaluation, checked: everything that is known before a model is loaded."""

    weights: ModelArguments
    args: EvalArguments
    card: TaskCard
    collator: ClipCollator
    clips: list[Row]
    train: list[Row]
    unreadable: dict[str, str]
    target: str
    settings: dict[str, Any]

    @property
    def ids(self) -> list[str]:
        """The clips that must be predicted, each once."""
        return [row["id"] for row in self.clips]


def make_plan(data: DataArguments, base: ModelArguments, args: EvalArguments) -> Plan:
    """Reads the data and the record of the checkpoint, and checks that they fit.

    Raises:
        UserError: for every mistake that can be seen without the weights.
    """
    check_whole_model(use_cpu=args.use_cpu)
    check_model_arguments(base, use_cpu=args.use_cpu)
    if args.method != "greedy":
        check_scoring_attention(base)
    task = open_task(data, base)
    card = task.card
    if card.is_open != (args.method == "greedy"):
        way_out = "only greedy answers can be evaluated" if card.is_open else "it is for open answers; use score"
        raise UserError(f"method is '{args.method}' but the answers of {card.path} are {card.answer.type}: {way_out}")
    fingerprint = base_fingerprint(base.model_name_or_path, base.model_revision)
    record: dict[str, Any] = {"target": "label", "weights": None}
    if args.checkpoint and is_hub_id(args.checkpoint):
        if args.calibrate:
            raise UserError(f"calibrate stores the temperature in the checkpoint; download '{args.checkpoint}' first")
        args.checkpoint = str(find_checkpoint(args.checkpoint))
    if args.checkpoint:
        record = read_record(args.checkpoint)
        wanted = {"base": fingerprint, "frames": task.frames.to_dict(), "definitions": data.definitions}
        wanted |= {"load_in_4bit": base.load_in_4bit}
        (check_other_labels if args.unseen_labels else check_same)(record, args.checkpoint, card, **wanted)
        check_unseen(record, args.checkpoint, task.rows, task.manifest, args.split)
    clips, train = task.of_split(args.split), task.readable("train")
    if not clips:
        raise UserError(
            f"{card.path}: the {args.split} split has no labelled clip; give it clips, or name another split"
        )
    if args.method not in ALONE:
        check_method(args, base, task, train)
    settings = {
        "card": card.fingerprint(),
        "base": fingerprint,
        "precision": [base.dtype, base.load_in_4bit, base.attn_implementation],
        "frames": task.frames.to_dict(),
        "definitions": data.definitions,
        "options": options_of(args),
        "checkpoint": record["weights"],
        "data": task.fingerprint(clips if args.method in ALONE else clips + train),
    }
    known = {row["id"]: task.manifest[row["id"]] for row in clips}
    unreadable = {i: f"{entry['reason']}: {entry['detail']}" for i, entry in known.items() if entry["reason"]}
    weights = under_adapter(record, base)
    return Plan(weights, args, card, task.collator(), clips, train, unreadable, record["target"], settings)


def options_of(args: EvalArguments) -> dict[str, Any]:
    """The options that make the result; what newer versions added is there only where it was set."""
    added = {"num_heads": None, "num_examples": None, "frame_order": "original"}
    options = {k: v for k, v in dataclasses.asdict(args).items() if k not in NOT_PART_OF_THE_RESULT}
    return {k: v for k, v in options.items() if k not in added or v != added[k]}


def check_method(args: EvalArguments, base: ModelArguments, task: Task, train: list[Row]) -> None:
    """What the methods that look at training clips need, asked for before the model is loaded.

    Raises:
        UserError: if there are too few clips, or a prompt with examples would be too long for the base.
    """
    name = "the probe" if args.method == "probe" else args.method
    if not train:
        raise UserError(f"{task.card.path}: {name} needs training clips, and there are none; use method: score")
    config = base_config(base.model_name_or_path, base.model_revision).get_text_config()
    if args.method in ("probe", "heads"):
        check_pairs(train, task.card.names, name)
    if args.method == "heads" and (args.num_heads or 0) > (there := number_of_heads(config)):
        raise UserError(f"num_heads is {args.num_heads} but the base has {there} attention heads; lower it")
    if args.method == "in_context":
        tested = task.readable(args.split)
        check_fits(args, task.collator(), train, tested, task.manifest, config.max_position_embeddings)


def store_calibration(plan: Plan, predictions: list[Prediction]) -> None:
    """Writes calibration.json beside the weights that it was fitted to."""
    assert plan.args.checkpoint is not None, "see EvalArguments"
    file = Path(plan.args.checkpoint) / CALIBRATION_FILE
    found = calibrate(predictions, plan.card.names) | {"weights": plan.settings["checkpoint"]}
    write_json(file, found)
    before, after = found["before"], found["after"]
    print(
        f"temperature {found['temperature']:.2f} on {found['n']} clips: Brier {before['brier']:.3f} -> "
        f"{after['brier']:.3f}, log-likelihood {-before['nll']:.3f} -> {-after['nll']:.3f}, area under risk-coverage "
        f"{before['aurc']:.3f} -> {after['aurc']:.3f}; stored in '{file}'"
    )


def finished(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The metrics of an evaluation that has been made with the very same settings, weights and clips.

    Raises:
        UserError: if another one lies there.
    """
    if not all((output / name).is_file() for name in ("predictions.jsonl", "metrics.json")):
        return None
    metrics = read_json(output / "metrics.json")
    if "confusion" in metrics and not (output / "confusion.png").is_file():
        return None
    made = metrics.get("settings") or {}
    if other := first_difference(made, settings):
        raise UserError(
            f"output_dir '{output}' holds an evaluation with {other} = {made.get(other)}, this one has "
            f"{settings.get(other)}; choose another output_dir, or delete it"
        )
    return metrics


def write_files(output: Path, predictions: list[Prediction], metrics: dict[str, Any], card: TaskCard) -> None:
    """Writes the files of an evaluation and prints its headline."""
    write_jsonl(output / "predictions.jsonl", predictions)
    if not card.is_open:
        save_confusion_picture(metrics, output / "confusion.png")
    write_json(output / "metrics.json", metrics)
    low, high = metrics["accuracy_interval"]
    if card.is_open:
        means = "".join(
            f", {key.replace('_', ' ')} {metrics[key]:.3f}" for key in MEANS if metrics.get(key) is not None
        )
        print(
            f"{card.name}: accuracy {metrics['accuracy']:.3f} (95 % interval {low:.3f}-{high:.3f}, n = {metrics['n']})"
            f"{means}, best constant answer {metrics['constant']:.3f}"
        )
        return
    print(
        f"{card.name}: accuracy {metrics['accuracy']:.3f} (95 % interval {low:.3f}-{high:.3f}, n = {metrics['n']}), "
        f"macro-F1 {metrics['macro_f1']:.3f}, chance {metrics['chance']:.3f}, majority {metrics['majority']:.3f}"
    )


if __name__ == "__main__":
    run_entry(main)
