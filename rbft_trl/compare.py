"""Did rationales help? Every arm on every draw of labelled clips, and what the figures allow.

Input: a recipe that names arms (recipes/arms/) and the recipes of their stages. Output: comparison.json, a table, one
sentence, report.html.
Command: python rbft_trl/compare.py recipes/toy/compare.yaml
"""

import datetime
from collections import Counter
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from rbft_trl.arms import Arm
from rbft_trl.browse import agreement, mistake_strips, rationale_strips
from rbft_trl.cells import Cell, Cells
from rbft_trl.compare_config import CompareArguments
from rbft_trl.compare_data import check_data, labels_per_class
from rbft_trl.compared import settings_of, treatments
from rbft_trl.costs import Place
from rbft_trl.data.jsonl import check_folder, write_json
from rbft_trl.errors import NothingKept, UserError, run_entry
from rbft_trl.evidence.intervals import effective_sources
from rbft_trl.evidence.power import power_before
from rbft_trl.evidence.report import build_report
from rbft_trl.evidence.results import write_results
from rbft_trl.evidence.stats import summarise
from rbft_trl.evidence.table import text_of_cards, text_of_frames, text_of_left_out, text_of_rung
from rbft_trl.fairness import check
from rbft_trl.recipe import parse_recipe
from rbft_trl.stopping import Stopped

ANSWER = ("rbft", "direct")  # their difference is the answer


def main(argv: list[str]) -> dict[str, Any]:
    """Runs what is not finished yet, then compares; returns comparison.json."""
    (args,) = parse_recipe(argv, CompareArguments)
    check_folder(args.output_dir)
    arms = check(args)
    transformers_logging.disable_progress_bar()  # dozens of loads of a small base
    run = Cells(args, arms)
    tested = check_data(run).of_split("test")
    groups = effective_sources([*Counter(row["group"] for row in tested).values()])
    num_arms = max(len(treatments(args, arms)), 1)
    print(power_before(len(tested), groups, args.seeds, num_arms=num_arms)["sentence"], flush=True)
    labels = labels_per_class(run)
    rungs, without = [], []
    for shots in args.shots or [None]:
        cells, lost = run_rung(run, shots)
        if hopeless := [name for name in ANSWER if name not in cells]:
            without.append({"shots": shots or run.data.shots, "arm": hopeless[0], "why": lost[hopeless[0]]})
            continue
        found = {name: {**told(arms[name]), "draws": own} for name, own in cells.items()}
        of = {"shots": shots or run.data.shots, "labels": labels}
        rungs.append(of | {"arms": found, "left_out": lost})
    if args.parts[1] > 1:
        print(f"part {args.part} is done; the command without `part` gathers all parts")
        return {"rungs": rungs}
    if not rungs:
        raise UserError(text_of_rung(without[0]))
    return finish(run, rungs, without)


def run_rung(run: Cells, shots: int | None) -> tuple[dict[str, list[Cell]], dict[str, str]]:
    """All arms on all draws of one number of shots that could be trained, and by arm why one lacks a draw: it needs
    rationales of every class. Without an arm of the answer a draw ends, since nothing can be compared in it."""
    args = run.args
    cells: dict[str, list[Cell]] = {arm: [] for arm in args.arms}
    lost: dict[str, list[str]] = {}
    part, parts = args.parts
    draws = args.draws[part - 1 :: parts]
    total = len(args.arms) * len(draws)
    for index, draw in enumerate(draws):
        place, useless = Place(draw, shots), False
        for number, name in enumerate(args.arms, start=1 + len(args.arms) * index):
            if useless and name not in ANSWER:
                continue
            where = f"draw {draw}" + (f", {shots} shots" if shots else "")
            print(f"\n[{number}/{total}] {where}: {name} - {run.arms[name].about}", flush=True)
            try:
                cells[name].append(run.cell(name, place))
            except NothingKept as error:
                lost.setdefault(name, []).append(f"{where}: {error}")
                useless = useless or name in ANSWER
                print(f"arm '{name}' is left out of this draw - {where}: {error}", flush=True)
            except UserError as error:
                files = place.folder(run.out)
                # A step of another arm that this one takes may be the one: then its folder is named already.
                below = "" if str(files) in str(error) else f"; its files lie below '{files / name}'"
                raise UserError(f"arm '{name}', {where}: {error}{below}") from None
            except Stopped as stop:
                raise Stopped(f"arm '{name}', {where}: {stop.done}") from None
    return {name: own for name, own in cells.items() if own}, {name: "; ".join(whys) for name, whys in lost.items()}


def told(arm: Arm) -> dict[str, Any]:
    """What comparison.json says of an arm whatever its figures are."""
    return {"description": arm.about, "role": arm.role}


def finish(run: Cells, rungs: list[dict[str, Any]], without: list[dict[str, Any]]) -> dict[str, Any]:
    """Statistics, files, and what is printed: one table, one sentence, the path of the report.

    Args:
        run (`Cells`): What was run.
        rungs (`list[dict]`): `shots`, `arms` and `left_out` of each number of shots that can be compared.
        without (`list[dict]`): `shots`, `arm` and `why` of each other one: its arm could not be trained.
    """
    first = rungs[-1]["arms"]["rbft"]["draws"][0]  # whose clips are shown
    task = run.task(Place(first["draw"], rungs[-1]["shots"] if run.args.shots else None))
    card = task.card
    comparison = {
        "task": card.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "note": run.args.note,
        "shots": [rung["shots"] for rung in rungs],
        "rungs_left_out": without,
        "settings": settings_of(run.args, run.base, card),
    }
    rungs = [rung | summarise({"note": run.args.note} | rung, names=card.names) for rung in rungs]
    comparison |= {"rungs": rungs} | {key: rungs[-1][key] for key in ("arms", "pairs", "verdict", "table", "sentence")}
    write_json(run.out / "comparison.json", comparison)
    empty = [{"shots": lost["shots"], "arms": {}, "left_out": {lost["arm"]: lost["why"]}} for lost in without]
    write_results(run.out / "results.jsonl", comparison | {"rungs": [*rungs, *empty]}, names=card.names)
    report = run.out / "report.html"
    build_report(
        comparison,
        report,
        strips=rationale_strips(task, first) if first["rationales"] else [],
        mistakes=mistake_strips(task, first, Path(first["checkpoint"])),
        agreement={"rbft": agreement(task, first, Path(first["checkpoint"]))},
        note=run.args.note,
    )
    for rung in rungs:
        title = f"\n{rung['shots']} labelled clips per class" if len(rungs) + len(without) > 1 else ""
        lost = [f"left out: {line}" for line in text_of_left_out(rung["left_out"])]
        more = text_of_frames(rung["arms"]) + text_of_cards(rung.get("elsewhere", {}))
        print("\n".join([f"{title}\n{rung['table']}", *lost, more, rung["sentence"]]))
    for lost in without:
        print(f"\n{lost['shots']} labelled clips per class are left out: {text_of_rung(lost)}")
    print(f"\nreport: {report.resolve()}")
    return comparison


if __name__ == "__main__":
    run_entry(main)
