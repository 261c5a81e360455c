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

from rbft_trl.arms import Arm
from rbft_trl.browse import agreement, mistake_strips, rationale_strips
from rbft_trl.cells import Cell, Cells
from rbft_trl.compare_config import CompareArguments
from rbft_trl.compared import settings_of, treatments
from rbft_trl.costs import Place
from rbft_trl.data.jsonl import write_json
from rbft_trl.errors import NothingKept, UserError, run_entry
from rbft_trl.evidence.controls import oracle_samples
from rbft_trl.evidence.intervals import effective_sources
from rbft_trl.evidence.power import power_before
from rbft_trl.evidence.report import build_report
from rbft_trl.evidence.results import write_results
from rbft_trl.evidence.stats import summarise
from rbft_trl.fairness import check
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import open_task
from rbft_trl.stopping import Stopped
from rbft_trl.texts import subset


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
        cells, lost = run_rung(run, shots)
        found = {name: {**told(arms[name]), "draws": own} for name, own in cells.items()}
        rungs.append({"shots": shots or run.data.shots, "arms": found, "left_out": lost})
    if args.parts[1] > 1:
        print(f"part {args.part} is done; the command without `part` gathers all parts")
        return {"rungs": rungs}
    return finish(run, rungs)


def first_place(args: CompareArguments) -> Place:
    """The first draw of the rung that answers, which the report shows clips of."""
    return Place(args.first_draw, args.shots[-1] if args.shots else None)


def run_rung(run: Cells, shots: int | None) -> tuple[dict[str, list[Cell]], dict[str, str]]:
    """All arms on all draws of one number of shots, and why an arm is left out: it needs rationales of every class."""
    args = run.args
    cells: dict[str, list[Cell]] = {arm: [] for arm in args.arms}
    lost: dict[str, str] = {}
    part, parts = args.parts
    draws = range(args.first_draw, args.first_draw + args.seeds)[part - 1 :: parts]
    total = len(args.arms) * len(draws)
    for index, draw in enumerate(draws):
        place = Place(draw, shots)
        for number, name in enumerate(args.arms, start=1 + len(args.arms) * index):
            if name in lost:
                continue
            where = f"draw {draw}" + (f", {shots} shots" if shots else "")
            print(f"\n[{number}/{total}] {where}: {name} - {run.arms[name].about}", flush=True)
            try:
                cells[name].append(run.cell(name, place))
            except NothingKept as error:
                lost[name] = f"{where}: {error}"
                print(f"arm '{name}' is left out of the comparison - {lost[name]}", flush=True)
            except UserError as error:
                raise UserError(
                    f"arm '{name}', {where}: {error}; its files lie below '{place.folder(run.out) / name}'"
                ) from None
            except Stopped as stop:
                raise Stopped(f"arm '{name}', {where}: {stop.done}") from None
    if hopeless := [name for name in ("rbft", "direct") if name in lost]:
        raise UserError(f"without arm '{hopeless[0]}' there is nothing to compare: {lost[hopeless[0]]}")
    return {name: found for name, found in cells.items() if name not in lost}, lost


def told(arm: Arm) -> dict[str, Any]:
    """What comparison.json says of an arm whatever its figures are."""
    return {"description": arm.about, "role": arm.role}


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
        lost = [f"left out: {name} - {why}" for name, why in rung["left_out"].items()]
        print("\n".join([f"{title}\n{rung['table']}", *lost, "", rung["sentence"]]))
    print(f"\nreport: {report.resolve()}")
    return comparison


if __name__ == "__main__":
    run_entry(main)
