"""Did rationales help? Every arm on every draw of labelled clips, and what the figures allow.

Input: a recipe that names arms (recipes/arms/) and the recipes of their stages. Output: comparison.json, a table, one
sentence, report.html.
Command: python rbft_trl/compare.py recipes/toy/compare.yaml
"""

import dataclasses
import datetime
from collections import Counter
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from rbft_trl import star
from rbft_trl.arms import Arm, Step, read_arms, references
from rbft_trl.browse import agreement, mistake_strips, rationale_strips
from rbft_trl.cells import Cell, Cells, shared
from rbft_trl.compare_config import RECIPES, CompareArguments
from rbft_trl.compared import settings_of, treatments
from rbft_trl.configs import AdapterArguments, DataArguments, EvalArguments, ModelArguments, StageArguments
from rbft_trl.costs import Place
from rbft_trl.data.jsonl import write_json
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.controls import oracle_samples
from rbft_trl.evidence.intervals import effective_sources
from rbft_trl.evidence.power import power_before
from rbft_trl.evidence.report import build_report
from rbft_trl.evidence.results import write_results
from rbft_trl.evidence.stats import summarise
from rbft_trl.plan import check_options
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe, words_of
from rbft_trl.star_config import StarArguments
from rbft_trl.start import open_task
from rbft_trl.stopping import Stopped
from rbft_trl.texts import check_texts, subset
from rbft_trl.training_config import TrainingConfig

# What all trainings must share so that a step means the same; rates and parts are each arm's own.
MATCHED = ("per_device_train_batch_size", "gradient_accumulation_steps", "use_peft", "lora_r", "lora_alpha")
MATCHED += ("lora_dropout", "optim")
SAME_CLIPS = ("task", "shots", "definitions", "num_frames", "fps", "max_frames", "min_pixels", "max_pixels")
SAME_CLIPS += ("min_decodable", "on_bad_clip")
SAME_BASE = ("model_name_or_path", "model_revision", "dtype", "load_in_4bit")
TRAINING = (AdapterArguments, StageArguments, TrainingConfig)
TARGETS = {"stage1": "rationale", "stage2": "label", "direct": "label"}
Training = tuple[str, tuple[Any, ...]]  # the recipe of a step, and its options
GROUPS: dict[str, tuple[type, ...]] = {"rationales": (RationaleArguments,), "sft": TRAINING, "eval": (EvalArguments,)}


def main(argv: list[str]) -> dict[str, Any]:
    """Runs what is not finished yet, then compares; returns comparison.json."""
    (args,) = parse_recipe(argv, CompareArguments)
    arms = check(args)
    transformers_logging.disable_progress_bar()  # dozens of loads of a small base
    run = Cells(args, arms)
    check_oracle(run)
    check_pool(run)
    tested = run.task(first_place(args)).of_split("test")
    groups = effective_sources([*Counter(row["group"] for row in tested).values()])
    num_arms = max(len(treatments(args, arms)), 1)
    print(power_before(len(tested), groups, args.seeds, num_arms=num_arms)["sentence"], flush=True)
    rungs = []
    for shots in args.shots or [None]:
        cells = run_rung(run, shots)
        rungs.append(
            {"shots": shots or run.data.shots, "arms": {a: {**told(arms[a]), "draws": cells[a]} for a in args.arms}}
        )
    if args.parts[1] > 1:
        print(f"part {args.part} is done; the command without `part` gathers all parts")
        return {"rungs": rungs}
    return finish(run, rungs)


def first_place(args: CompareArguments) -> Place:
    """The first draw of the rung that answers, which the report shows clips of."""
    return Place(args.first_draw, args.shots[-1] if args.shots else None)


def run_rung(run: Cells, shots: int | None) -> dict[str, list[Cell]]:
    """All arms on all draws of one number of shots."""
    args = run.args
    cells: dict[str, list[Cell]] = {arm: [] for arm in args.arms}
    part, parts = args.parts
    draws = range(args.first_draw, args.first_draw + args.seeds)[part - 1 :: parts]
    total = len(args.arms) * len(draws)
    for draw in draws:
        place = Place(draw, shots)
        for name in args.arms:
            number = sum(map(len, cells.values())) + 1
            where = f"draw {draw}" + (f", {shots} shots" if shots else "")
            print(f"\n[{number}/{total}] {where}: {name} - {run.arms[name].about}", flush=True)
            try:
                cells[name].append(run.cell(name, place))
            except UserError as error:
                raise UserError(
                    f"arm '{name}', {where}: {error}; its files lie below '{place.folder(run.out) / name}'"
                ) from None
            except Stopped as stop:
                raise Stopped(f"arm '{name}', {where}: {stop.done}") from None
    return cells


def told(arm: Arm) -> dict[str, Any]:
    """What comparison.json says of an arm whatever its figures are."""
    return {"description": arm.about, "control": arm.control}


def check(args: CompareArguments) -> dict[str, Arm]:
    """Every mistake in the arms and in the recipes of their stages, before the first of them starts.

    Raises:
        UserError: naming the arm or recipe, both values and the way out.
    """
    if len(set(args.arms)) < len(args.arms):
        raise UserError(f"arms names an arm twice: {args.arms}; keep one of them")
    arms = read_arms(args.arms, args.arms_folder)
    if not {"rbft", "direct"} <= set(args.arms):
        raise UserError("arms must hold 'rbft' and 'direct': their difference is the answer; add them")
    if untrained := [name for name in ("rbft", "direct") if not any(step.entry == "sft" for step in arms[name].steps)]:
        raise UserError(f"arm '{untrained[0]}' trains nothing, but its result is the answer; give it a stage")
    evaluated = _read(args, args.eval, "eval")
    for key in RECIPES:  # those that no arm uses too: they are named, so they must be right
        entry = key if key in GROUPS else "sft"
        groups = _read(args, getattr(args, key), entry)
        _same(getattr(args, key), groups, args.eval, evaluated)
        if key in TARGETS:
            _needs(getattr(args, key), "target", groups[3].target, TARGETS[key])
    _needs(args.eval, "method", evaluated[2].method, "score")
    _needs(args.eval, "split", evaluated[2].split, "test")
    check_cards(args)
    trainings: dict[tuple[str, str], Training] = {}
    for arm in arms.values():
        how = _read(args, args.eval, "eval", arm.evaluate, checkpoint="somewhere" if arm.trained else "null")[2]
        _needs(f"the evaluation of arm '{arm.name}'", "frame_order", how.frame_order, "original")  # a diagnostic
        for step in arm.steps:
            if (groups := check_step(args, arm, step, evaluated)) and step.entry == "sft":
                trainings[arm.name, step.name] = (str(args.recipe_of(step.recipe)), groups)
    _matched(arms, trainings)
    return arms


def check_cards(args: CompareArguments) -> None:
    """The cards that arms are tested on beside their own: with the same classes, or for `novel` with others.

    Raises:
        UserError: naming the card.
    """
    stems = [Path(card).stem for card in args.other_cards]
    if double := [stem for stem in stems if stems.count(stem) > 1]:
        raise UserError(f"two cards of 'elsewhere' and 'novel' are named '{double[0]}.yaml'; rename one")
    own = set(TaskCard.from_yaml(_read(args, args.eval, "eval")[0].task).names) if args.other_cards else set()
    for card in args.other_cards:
        names = set(TaskCard.from_yaml(card).names)
        if card == args.novel and names & own:
            raise UserError(f"novel: {card} names '{min(names & own)}' as the comparison's own card does; take it out")
        if card != args.novel and names != own:
            raise UserError(
                f"elsewhere: {card} and the comparison's own card differ in '{min(names ^ own)}'; only the clips may "
                "differ there"
            )


def check_step(args: CompareArguments, arm: Arm, step: Step, evaluated: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """One step of an arm: its recipe with its overrides; returns what it says."""
    place = f"arm '{arm.name}', step '{step.name}'"
    if step.entry == "texts":
        check_texts(step.recipe, step.settings, place)
        if step.recipe == "oracle" and args.oracle_texts is None:
            raise UserError(f"{place} needs true descriptions; name them as 'oracle_texts', or leave out the arm")
        return None
    if (recipe := args.recipe_of(step.recipe)) is None:
        raise UserError(
            f"{place} needs the key '{step.recipe}' of the comparison; name its recipe, or leave out the arm"
        )
    if step.entry == "star":
        words = ["--stage2", args.stage2, *words_of(step.settings)]
        star.check(*parse_recipe([recipe, *shared(args), *words], StarArguments))
        return None
    groups = _read(args, recipe, step.entry, step.settings)
    _same(recipe, groups, args.eval, evaluated)
    if step.entry == "sft" and not references(step.settings.get("init"), arm.name):
        _needs(recipe, "init", groups[3].init, "base")
    if step.entry == "sft" and args.launch is None:
        check_options(*groups[1:])
    return groups


def _needs(recipe: str, name: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise UserError(f"'{name}' is {value} in {recipe}, but the comparison needs {wanted}; change it")


def _read(
    args: CompareArguments, recipe: str, entry: str, settings: dict[str, Any] | None = None, **more: str | None
) -> tuple[Any, ...]:
    """The options of a recipe with an arm's overrides; a reference to another step stands for some path."""
    given = (settings or {}) | {key: value for key, value in more.items() if value is not None}
    words = words_of({key: "somewhere" if references(value, "") else value for key, value in given.items()})
    return parse_recipe([recipe, *shared(args), *words], DataArguments, ModelArguments, *GROUPS[entry])


def _same(recipe: str, groups: tuple[Any, ...], eval_recipe: str, evaluated: tuple[Any, ...]) -> None:
    for index, names in ((0, SAME_CLIPS), (1, SAME_BASE)):
        for name in names:
            value = getattr(groups[index], name)
            if value != getattr(evaluated[index], name):
                raise UserError(f"'{name}' is {value} in {recipe} and differs in {eval_recipe}")


def _matched(arms: dict[str, Arm], trainings: dict[tuple[str, str], Training]) -> None:
    """All trainings have one batch, one adapter and one optimizer; a stage trains no part that the one before left."""
    first_recipe, first = [found for (arm, _), found in trainings.items() if arm == "rbft"][-1]
    for (name, step_name), (recipe, groups) in trainings.items():
        _needs(recipe, "dataloader_drop_last", groups[4].dataloader_drop_last, True)
        for option in MATCHED:
            value, other = _setting(groups, option), _setting(first, option)
            if value != other:
                raise UserError(
                    f"'{option}' is {value} in {recipe} and {other} in {first_recipe}; steps are only matched if both "
                    "are equal"
                )
        step = arms[name].step(step_name)
        for parent in references(step.settings.get("init"), name):
            if parent not in trainings:
                continue
            other_recipe, before = trainings[parent]
            if more := sorted(set(groups[2].train_parts) - set(before[2].train_parts)):
                raise UserError(
                    f"train_parts of {recipe} holds '{more[0]}', which {other_recipe} leaves out; make them fit"
                )


def _setting(groups: tuple[Any, ...], name: str) -> Any:
    return next(getattr(group, name) for group in groups if hasattr(group, name))


def check_oracle(run: Cells) -> None:
    """Every training clip has its true description, where an arm needs it."""
    steps = [step for arm in run.arms.values() for step in arm.steps if step.recipe == "oracle"]
    if not steps:
        return
    task = open_task(dataclasses.replace(run.data, shots=None), run.base)
    rows = [row for row in task.rows if row["split"] == "train"]
    for column in {step.settings.get("column", "text") for step in steps}:
        oracle_samples(rows, {name: row.get(column, "") for name, row in run.truth.items()}, task.card)


def check_pool(run: Cells) -> None:
    """There are as many clips without a label as arms take with `times_labels`, at the largest number of shots.

    Raises:
        UserError: naming the arm and both numbers.
    """
    steps = [(arm, step) for arm, of in run.arms.items() for step in of.steps if "times_labels" in step.settings]
    rows = [row for row in run.task(first_place(run.args)).rows if row["split"] == "train"] if steps else []
    for arm, step in steps:
        try:
            subset(rows, step.settings["times_labels"], 0)
        except UserError as error:
            raise UserError(f"arm '{arm}', step '{step.name}': {error}") from None


def finish(run: Cells, rungs: list[dict[str, Any]]) -> dict[str, Any]:
    """Statistics, files, and what is printed: one table, one sentence, the path of the report."""
    task = run.task(first_place(run.args))
    card = task.card
    comparison = {
        "task": card.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "note": run.args.note,
        "shots": [rung["shots"] for rung in rungs],
        "settings": settings_of(run.args, run.base, card),
    }
    rungs = [rung | summarise({"note": run.args.note} | rung, names=card.names) for rung in rungs]
    comparison |= {"rungs": rungs} | {key: rungs[-1][key] for key in ("arms", "pairs", "verdict", "table", "sentence")}
    write_json(run.out / "comparison.json", comparison)
    write_results(run.out / "results.jsonl", comparison, names=card.names)
    report = run.out / "report.html"
    first = comparison["arms"]["rbft"]["draws"][0]
    build_report(
        comparison,
        report,
        strips=rationale_strips(task, first) if first["rationales"] else [],
        mistakes=mistake_strips(task, first, Path(first["checkpoint"])),
        agreement={"rbft": agreement(task, first, Path(first["checkpoint"]))},
        note=run.args.note,
    )
    for rung in rungs:
        title = f"\n{rung['shots']} labelled clips per class" if len(rungs) > 1 else ""
        print(f"{title}\n{rung['table']}\n\n{rung['sentence']}")
    print(f"\nreport: {report.resolve()}")
    return comparison


if __name__ == "__main__":
    run_entry(main)
