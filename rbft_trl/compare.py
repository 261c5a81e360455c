"""Did rationales help? Every arm on every draw of labelled clips, in one process, and what the figures allow.

Input: a recipe that names the recipes of the stages. Output: comparison.json, a table, one sentence, report.html.
Command: python rbft_trl/compare.py recipes/toy/compare.yaml
"""

import datetime
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from rbft_trl import eval as evaluation
from rbft_trl import rationales, sft
from rbft_trl.browse import mistake_strips, rationale_strips
from rbft_trl.configs import (
    AdapterArguments,
    CompareArguments,
    DataArguments,
    EvalArguments,
    ModelArguments,
    StageArguments,
)
from rbft_trl.data.jsonl import read_jsonl, write_json, write_jsonl
from rbft_trl.errors import UserError, nearest, run_entry
from rbft_trl.evidence.controls import oracle_samples, shuffled_within_class
from rbft_trl.evidence.report import build_report
from rbft_trl.evidence.stats import summarise
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import Row, open_task
from rbft_trl.stopping import Stopped
from rbft_trl.training_config import TrainingConfig

# What stage 1, stage 2 and direct SFT must share so that a step means the same; rates and parts are each arm's own.
MATCHED = ("per_device_train_batch_size", "gradient_accumulation_steps", "use_peft", "lora_r", "lora_alpha")
MATCHED += ("lora_dropout", "optim")
SAME_CLIPS = ("task", "shots", "definitions", "num_frames", "fps", "max_frames", "min_pixels", "max_pixels")
SAME_CLIPS += ("min_decodable", "on_bad_clip")
ARMS = {
    "zero_shot": "the base as it is",
    "zero_shot_definitions": "the base as it is, with the definitions of the labels in the prompt",
    "probe": "a linear probe on frozen features of the base",
    "direct": "direct SFT on the labels, with as many steps as stage 1 and stage 2 together",
    "rbft": "RB-FT: stage 1 on the model's own rationales, stage 2 on the labels",
    "shuffled": "control: as RB-FT, but each clip whose class is known has the rationale of another of its class",
    "oracle": "control: as RB-FT, but with true descriptions in stage 1",
}


def main(argv: list[str]) -> dict[str, Any]:
    """Runs what is not finished yet, then compares; returns comparison.json."""
    (args,) = parse_recipe(argv, CompareArguments)
    check(args)
    transformers_logging.disable_progress_bar()  # dozens of loads of a small base
    run = Comparison(args)
    order = sorted(args.arms, key=lambda arm: arm == "direct" or arm in ("shuffled", "oracle"))  # rbft sets the steps
    cells: dict[str, list[dict[str, Any]]] = {arm: [] for arm in args.arms}
    total = len(args.arms) * args.seeds
    for draw in range(args.seeds):
        for arm in order:
            number = sum(map(len, cells.values())) + 1
            print(f"\n[{number}/{total}] draw {draw}: {arm} - {ARMS[arm]}", flush=True)
            try:
                cells[arm].append(run.cell(arm, draw, cells))
            except UserError as error:
                place = run.out / f"draw{draw}" / arm
                raise UserError(f"arm '{arm}', draw {draw}: {error}; its files lie below '{place}'") from None
            except Stopped as stop:
                raise Stopped(f"arm '{arm}', draw {draw}: {stop.done}") from None
    comparison = {
        "task": run.card.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "note": args.note,
        "arms": {arm: {"description": ARMS[arm], "draws": cells[arm]} for arm in args.arms},
    }
    return finish(run, comparison)


def check(args: CompareArguments) -> None:
    """Every mistake in the arms and in the recipes of the stages, before the first of them starts."""
    for arm in args.arms:
        if arm not in ARMS:
            raise UserError(f"arms holds '{arm}', which is no arm{nearest(arm, ARMS)}; known: {', '.join(ARMS)}")
    if not {"rbft", "direct"} <= set(args.arms):
        raise UserError("arms must hold 'rbft' and 'direct': their difference is the answer; add them")
    if ("oracle" in args.arms) != (args.oracle_texts is not None):
        raise UserError("the arm 'oracle' and the key 'oracle_texts' belong together; give both or leave out both")
    if len(set(args.arms)) < len(args.arms):
        raise UserError(f"arms names an arm twice: {args.arms}; keep one of them")
    training = (AdapterArguments, StageArguments, TrainingConfig)
    own = {"stage1": training, "stage2": training, "direct": training}
    own |= {"rationales": (RationaleArguments,), "eval": (EvalArguments,)}
    seen = {key: _read(args, key, *own[key]) for key in own}
    for key, (data, base, *_) in seen.items():
        for name in SAME_CLIPS:
            if getattr(data, name) != getattr(seen["eval"][0], name):
                raise UserError(
                    f"'{name}' is {getattr(data, name)} in {getattr(args, key)} and differs in {args.eval}"
                )
        for name in ("model_name_or_path", "model_revision", "dtype", "load_in_4bit"):
            if getattr(base, name) != getattr(seen["eval"][1], name):
                raise UserError(
                    f"'{name}' is {getattr(base, name)} in {getattr(args, key)} and differs in {args.eval}"
                )
    check_arms(args, seen)


def _read(args: CompareArguments, key: str, *groups: type) -> tuple[Any, ...]:
    return parse_recipe([getattr(args, key), *shared(args)], DataArguments, ModelArguments, *groups)


def shared(args: CompareArguments) -> list[str]:
    """What the comparison overrides in every recipe."""
    given = {"--task": args.task, "--setup": args.setup}
    return [word for key, value in given.items() if value for word in (key, value)]


def check_arms(args: CompareArguments, seen: dict[str, Any]) -> None:
    """The recipes must make the arms that the table names, with one batch, one adapter and one optimizer."""
    evaluated = seen["eval"][2]
    needed = [("eval", "method", evaluated.method, "score"), ("eval", "split", evaluated.split, "test")]
    for key, init, target in (("stage1", "base", "rationale"), ("stage2", None, "label"), ("direct", "base", "label")):
        stage = seen[key][3]
        needed += [(key, "target", stage.target, target), (key, "dataloader_drop_last", _drops(seen[key]), True)]
        needed += [(key, "init", stage.init, init)] if init else []
    for key, name, value, wanted in needed:
        if value != wanted:
            raise UserError(
                f"'{name}' is {value} in {getattr(args, key)}, but the comparison needs {wanted}; change it"
            )
    first, second = (set(_setting(seen[key], "train_parts")) for key in ("stage1", "stage2"))
    if more := sorted(second - first):
        raise UserError(
            f"train_parts of {args.stage2} holds '{more[0]}', which {args.stage1} leaves out; make them fit"
        )
    for key in ("stage1", "direct"):
        for name in MATCHED:
            value, other = (_setting(seen[one], name) for one in (key, "stage2"))
            if value != other:
                raise UserError(
                    f"'{name}' is {value} in {getattr(args, key)} and {other} in {args.stage2}; steps are only "
                    "matched if both are equal"
                )


def _drops(groups: tuple[Any, ...]) -> bool:
    return groups[4].dataloader_drop_last


def _setting(groups: tuple[Any, ...], name: str) -> Any:
    return next(getattr(group, name) for group in groups if hasattr(group, name))


class Comparison:
    """The cells of a comparison: each is a few entries run with the recipes' settings and a draw of its own."""

    def __init__(self, args: CompareArguments) -> None:
        self.args, self.out = args, Path(args.output_dir)
        self.data, self.base, self.eval = _read(args, "eval", EvalArguments)
        self.data.shots, shots = None, self.data.shots
        self.task = open_task(self.data, self.base)
        self.data.shots, self.card = shots, self.task.card
        truth = read_jsonl(args.oracle_texts) if args.oracle_texts else []
        self.texts = {row.get("id", ""): row.get("text", "") for row in truth}
        self.classes = {row.get("id", ""): row.get("label") for row in truth}  # of the pool too, where that is known
        if args.oracle_texts:
            oracle_samples([row for row in self.task.rows if row["split"] == "train"], self.texts, self.card)

    def cell(self, arm: str, draw: int, cells: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """Runs one arm on one draw and says where its files are; finished parts are reused."""
        folder = self.out / f"draw{draw}" / arm
        if arm.startswith("zero_shot"):
            if draw > 0:  # nothing is drawn here, so every draw has the same result
                return cells[arm][0] | {"draw": draw}
            definitions = ["--definitions", str(arm == "zero_shot_definitions")]
            return self._scored(folder, draw, None, *definitions)
        if arm == "probe":
            return self._scored(folder, draw, None, "--method", "probe")
        if arm == "direct":
            budget = cells["rbft"][draw]
            record = self._train(self.args.direct, folder / "direct", draw, "--max_steps", str(budget["steps"]))
            if record["presentations"] != budget["presentations"]:  # an epoch may end in a smaller step
                warnings.warn(
                    f"direct SFT was shown {record['presentations']} clips in as many steps as RB-FT, which was shown "
                    f"{budget['presentations']}; with gradient_accumulation_steps: 1 they are equal",
                    stacklevel=2,
                )
            return self._scored(folder, draw, folder / "direct") | _effort(record)
        return self._two_stages(arm, folder, draw, cells)

    def _two_stages(self, arm: str, folder: Path, draw: int, cells: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        file = self._rationales(arm, folder, draw)
        steps = ["--max_steps", str(cells["rbft"][draw]["stage1_steps"])] if arm != "rbft" else []
        first = self._train(self.args.stage1, folder / "stage1", draw, "--rationales", str(file), *steps)
        second = self._train(self.args.stage2, folder / "stage2", draw, "--init", str(folder / "stage1"))
        kept = json.loads(rationales.summary_file(file).read_text())["kept"] if arm == "rbft" else None
        cell = self._scored(folder, draw, folder / "stage2") | _effort(first, second)
        return cell | {"rationales": str(file), "kept": kept, "stage1_steps": first["steps"]}

    def _rationales(self, arm: str, folder: Path, draw: int) -> Path:
        """The model's own rationales (written once per draw), or a control made from them or from the truth."""
        own = self.out / f"draw{draw}" / "rbft" / "rationales.jsonl"
        if arm == "rbft":
            rationales.main([self.args.rationales, *self._draw(draw), "--seed", str(draw), "--output_file", str(own)])
            return own
        file = folder / "rationales.jsonl"
        if arm == "shuffled":
            write_jsonl(file, shuffled_within_class(read_jsonl(own), self.card, seed=draw, classes=self.classes))
        else:
            rows = [row for row in self.rows(draw) if row["split"] == "train"]
            write_jsonl(file, oracle_samples(rows, self.texts, self.card))
        # A control has the base, frames and prompts of the rationales that it stands beside.
        shutil.copy(rationales.summary_file(own), rationales.summary_file(file))
        return file

    def rows(self, draw: int) -> list[Row]:
        """All rows of a draw, with the shots of the evaluation's recipe."""
        self.data.draw = draw
        return open_task(self.data, self.base).rows

    def _draw(self, draw: int) -> list[str]:
        drawn = ["--draw", str(draw)] if self.data.shots else []  # without shots every draw has all labels
        return [*shared(self.args), *drawn]

    def _train(self, recipe: str, folder: Path, draw: int, *overrides: str) -> dict[str, Any]:
        own = ["--seed", str(draw), "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
        return sft.main([recipe, *self._draw(draw), *own, *overrides])

    def _scored(self, folder: Path, draw: int, checkpoint: Path | None, *overrides: str) -> dict[str, Any]:
        output = folder / "eval"
        trained = ["--checkpoint", str(checkpoint) if checkpoint else "null"]
        metrics = evaluation.main(
            [self.args.eval, *self._draw(draw), "--output_dir", str(output), *trained, *overrides]
        )
        cell = {"draw": draw, "predictions": str(output / "predictions.jsonl"), "metrics": metrics}
        nothing = {"steps": None, "presentations": None, "seconds": 0.0, "curves": [], "validation_accuracy": None}
        return cell | nothing | {"rationales": None, "kept": None}


def _effort(*records: dict[str, Any]) -> dict[str, Any]:
    """Steps, clips shown and seconds of one or two trainings, and their curves one after the other."""
    curves, offset = [], 0
    for record in records:
        curves += [entry | {"step": entry["step"] + offset} for entry in record["curves"]]
        offset += record["steps"]
    totals = {key: sum(record[key] for record in records) for key in ("steps", "presentations", "seconds")}
    return totals | {"curves": curves, "validation_accuracy": records[-1]["best_validation"]}


def finish(run: Comparison, comparison: dict[str, Any]) -> dict[str, Any]:
    """Statistics, files, and what is printed: one table, one sentence, the path of the report."""
    comparison |= summarise(comparison, names=run.card.names)
    write_json(run.out / "comparison.json", comparison)
    report = run.out / "report.html"
    first = comparison["arms"]["rbft"]["draws"][0]
    build_report(
        comparison,
        report,
        strips=rationale_strips(run.task, first),
        mistakes=mistake_strips(run.task, first, run.out / "draw0" / "rbft" / "stage2"),
        note=run.args.note,
    )
    print("\n" + comparison["table"])
    print("\n" + comparison["sentence"])
    print(f"\nreport: {report.resolve()}")
    return comparison


if __name__ == "__main__":
    run_entry(main)
