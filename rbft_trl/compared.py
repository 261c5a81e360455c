"""What a comparison compares, known before it runs: its treatments, and what each arm is made with, as twelve hex
digits: cells of two results files fit if these are equal.

Input: the options of a comparison, arms, base and card. Output: `settings` of comparison.json and results.jsonl.
"""

import json
from pathlib import Path
from typing import Any

from rbft_trl.arms import Arm, Step, read_arms
from rbft_trl.compare_config import CompareArguments
from rbft_trl.configs import ModelArguments
from rbft_trl.data.task import TaskCard, fingerprint
from rbft_trl.evidence.stats import BASELINE
from rbft_trl.model.loading import base_fingerprint
from rbft_trl.options import anchored
from rbft_trl.yaml_file import read_mapping

# Of a recipe: where things lie, what is printed, and what base, card and the cells tell themselves.
LEFT_OUT = ("output_dir", "output_file", "task", "setup", "model_name_or_path", "model_revision", "shots", "draw")
LEFT_OUT += ("seed", "logging_steps", "report_to", "run_name", "disable_tqdm", "dataloader_num_workers")
# Of a launch file: how many processes share a step, and how they compute it; on which machines is no matter.
OF_LAUNCH = ("num_processes", "distributed_type", "mixed_precision", "deepspeed_config", "fsdp_config")


def settings_of(args: CompareArguments, base: ModelArguments, card: TaskCard) -> dict[str, str]:
    """A fingerprint by arm over every line of its steps, their recipes and setups, and of the arms that it refers to;
    under "" that of what all share: base, card, evaluation and trials. The folder in which all this lies is no matter.
    With a launch file what it says of the numbers is part of each arm that has steps: a batch grows with processes.
    """
    shared = [base_fingerprint(base.model_name_or_path, base.model_revision), card.fingerprint(), args.trials]
    found = {"": _digest([*shared, _written(args.eval, args.setup)])}
    for name in args.arms:
        arms = read_arms([name], args.arms_folder)
        made = {arm.name: [arm.evaluate, [_made(args, step) for step in arm.steps]] for arm in arms.values()}
        for arm in arms.values():
            made[arm.name] += _launched(args) if arm.steps else []
        found[name] = _digest(made)
    return found


def treatments(args: CompareArguments, arms: dict[str, Arm]) -> list[str]:
    """The arms that are going to be corrected together for the answer, as the statistics do afterwards."""
    candidates = [name for name in args.arms if arms[name].trained and arms[name].role is None]
    return [name for name in candidates if name != BASELINE]


def _digest(content: Any) -> str:
    return fingerprint(json.dumps(content, sort_keys=True, default=str))


def _made(args: CompareArguments, step: Step) -> dict[str, Any]:
    if step.entry == "texts":
        truth = Path(args.oracle_texts).read_text(encoding="utf-8") if step.knows_truth else None
        return vars(step) | {"truth": truth}
    after = [_written(args.stage2, args.setup)] if step.entry == "star" else []
    return vars(step) | {"recipe": [_written(args.recipe_of(step.recipe), args.setup), *after]}


def _launched(args: CompareArguments) -> list[dict[str, Any]]:
    """What a launch file says of the numbers; nothing without one, so that the fingerprint is that of one process."""
    if args.launch is None:
        return []
    lines = read_mapping(Path(args.launch), what="launch file", example="correct the path")
    return [{key: lines.get(key) for key in OF_LAUNCH}]


def _written(recipe: str, setup: str | None) -> dict[str, Any]:
    """The lines of a recipe and of its setup, or of the one that all have; of a recipe in it, the lines of that."""
    file = Path(recipe)
    raw = read_mapping(file, what="recipe", example="correct the path")
    named = setup or (anchored(raw["setup"], file) if raw.get("setup") else None)
    lines = read_mapping(Path(named), what="setup", example="correct the path") | raw if named else raw
    return {
        key: _written(anchored(value, file), setup) if str(value).endswith(".yaml") else value
        for key, value in lines.items()
        if key not in LEFT_OUT
    }
