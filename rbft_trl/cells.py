"""Runs the steps of arms: each is an entry with a recipe, a draw and a folder of its own; finished ones are reused.

Input: arms, recipes, a draw and a number of shots. Output: cells of comparison.json.
"""

import dataclasses
import re
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rbft_trl import star
from rbft_trl.arms import Arm, Step, references
from rbft_trl.compare_config import CompareArguments
from rbft_trl.configs import DataArguments, EvalArguments, ModelArguments
from rbft_trl.costs import COSTS, Done, Place, closure, cost_of, first_seconds, operations, tokens_written
from rbft_trl.data.jsonl import read_json, read_jsonl
from rbft_trl.data.task import fingerprint
from rbft_trl.errors import UserError
from rbft_trl.evidence.yields import totals_of
from rbft_trl.launched import run_launched
from rbft_trl.model.provenance import read_record
from rbft_trl.recipe import parse_recipe, words_of
from rbft_trl.start import Task, open_task
from rbft_trl.stopping import one_part
from rbft_trl.texts import make_texts, read_truth

Cell = dict[str, Any]
COMPARISON = "the comparison"  # gives card, setup and draw
TRAINED = ("validation_accuracy", "stage1_steps", "rationales", "kept", "yields")  # None of what was not trained
FEW = 4  # steps that tell what one costs
NO_NAME, LONGEST_NAME = re.compile(r"[^\w.]+"), 150  # bytes; a file system takes 255, with the step and the key
MAINS = star.MAINS | {"star": star.main}


class Cells:
    """Makes the cells of a comparison, one step after the other.

    Args:
        args (`CompareArguments`): Recipes, card and folders.
        arms (`dict`): Every arm by name.
    """

    def __init__(self, args: CompareArguments, arms: dict[str, Arm]) -> None:
        self.args, self.arms, self.out = args, arms, Path(args.output_dir)
        self.data, self.base, self.eval = parse_recipe(
            [args.eval, *shared(args)], DataArguments, ModelArguments, EvalArguments, given_by=COMPARISON
        )
        self.truth = read_truth(args.oracle_texts) if args.oracle_texts else {}
        self.done: dict[tuple[str, str, Place], Done] = {}
        self.once: dict[str, Cell] = {}
        self.tasks: dict[Place, Task] = {}

    def task(self, place: Place) -> Task:
        """The rows of a draw; without `shots` all labels, whatever the draw."""
        if place not in self.tasks:
            shots = place.shots or self.data.shots
            data = dataclasses.replace(self.data, draw=place.draw if shots else 0, shots=shots)
            self.tasks[place] = open_task(data, self.base)
        return self.tasks[place]

    @cached_property
    def whole(self) -> Task:
        """The rows that the draws are taken from."""
        return open_task(dataclasses.replace(self.data, shots=None, draw=0), self.base)

    def cell(self, name: str, place: Place) -> Cell:
        """Runs one arm on one draw."""
        arm = self.arms[name]
        same_for_all = not arm.steps and arm.evaluate.get("method", "score") == "score"
        if same_for_all and name in self.once:  # nothing is drawn, so every draw has the same result
            return self.once[name] | {"draw": place.draw}
        if arm.trained and self.args.trials:
            last = self.best_trial(arm, place)
        else:
            steps = [self.step(arm, step, place) for step in arm.steps]
            last = next((s for s, step in zip(steps, arm.steps, strict=True) if step == arm.trained), None)
        folder = place.folder(self.out) / name
        checkpoint = ["--checkpoint", str(last.path) if last else "null"]
        cell = {"draw": place.draw} | self.scored(folder / "eval", place, arm, checkpoint)
        cell |= {"curves": []} | dict.fromkeys(TRAINED)
        cell |= cost_of(last) | {"checkpoint": str(last.path) if last else None}
        cell |= self.elsewhere(folder, arm, checkpoint)
        if last:
            cell |= self.history(arm, place, last)
        if self.args.shuffled_frames and last:
            shuffled = self.scored(folder / "eval_shuffled", place, arm, [*checkpoint, "--frame_order", "shuffled"])
            cell["shuffled_accuracy"] = shuffled["metrics"]["accuracy"]
        if same_for_all:
            self.once[name] = cell
        return cell

    def step(self, arm: Arm, step: Step, place: Place, *, suffix: str = "", extra: Sequence[str] = ()) -> Done:
        """Runs one step, and before it those that it refers to."""
        key = (arm.name, step.name + suffix, place)
        if key in self.done:
            return self.done[key]
        needs: dict[Path, Done] = {}
        settings = dict(step.settings)
        for name, value in step.settings.items():
            for other, target in references(value, arm.name):
                parent = self.step(self.arms[other], self.arms[other].step(target), place)
                needs[parent.path], settings[name] = parent, str(parent.path)
        folder = place.folder(self.out) / arm.name
        started = time.perf_counter()
        if step.entry == "texts":
            done = self.texts(step.recipe, settings, folder / f"{step.name}.jsonl", place)
        elif step.entry == "rationales":
            done = self.rationales(step, words_of(settings), folder / f"{step.name}.jsonl", place)
        else:
            words = words_of(settings)
            words += [*self.matched(arm, step, place, needs, words), *extra]
            done = self.trained(step, words, folder / (step.name + suffix), place)
        if "seconds" not in done.cost:
            done.cost["seconds"] = first_seconds(done.path, time.perf_counter() - started)
        done.needs = needs
        self.done[key] = done
        return done

    def texts(self, kind: str, settings: dict[str, Any], output: Path, place: Place) -> Done:
        """Texts are made again, and their cost is not counted: only pseudo-labels have one worth telling, one look at
        the pool, and these scores are kept."""
        task = self.task(place)
        with one_part():
            make_texts(kind, task, output, settings=settings, truth=self.truth, base=self.base, seed=place.draw)
        return Done(output, {"seconds": 0.0})

    def rationales(self, step: Step, words: list[str], output: Path, place: Place) -> Done:
        """Stage 0. Its cost: the tokens of clips and prompts (once per reading) and of texts."""
        own = ["--seed", str(place.draw), "--output_file", str(output)]
        self.run("rationales", [self.args.recipe_of(step.recipe), *self.drawn(place), *own, *words])
        return Done(output, {"tokens": tokens_written(read_jsonl(output), self.task(place))})

    def trained(self, step: Step, words: list[str], folder: Path, place: Place) -> Done:
        """A stage, or Video-STaR."""
        own = ["--seed", str(place.draw), "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
        if step.entry == "star":  # with the labels after it, so that it is scored as all others are
            own = [*own[:-2], "--stage2", self.args.stage2]
        self.run(step.entry, [self.args.recipe_of(step.recipe), *self.drawn(place), *own, *words])
        if step.entry == "star":
            found = read_json(folder / "star.json")
            record = read_record(found["final"]) | {"yields": totals_of(found["cycles"])}
            return Done(Path(found["final"]), {key: found["cost"][key] for key in COSTS}, record)
        record = read_record(folder)
        return Done(folder, {key: record[key] for key in COSTS}, record)

    def matched(self, arm: Arm, step: Step, place: Place, needs: dict[Path, Done], words: list[str]) -> list[str]:
        """`--max_steps`, where a step has as many steps, or as many operations, as another arm or step.

        Raises:
            UserError: if the steps before have more already, or operations cannot be counted.
        """
        if (of := step.steps_of or step.flops_of) is None:
            return []
        what = "optimiser steps" if step.steps_of else "floating-point operations"
        other, _, target = of.partition("/")
        model = self.arms[other]
        chosen = [model.step(target)] if target else list(model.steps)
        count = _steps if step.steps_of else operations
        wanted = count([self.finished(model, s, place) for s in chosen]) or 0
        before = 0 if target else count(closure(needs).values()) or 0
        if wanted <= before:
            raise UserError(
                f"arm '{arm.name}': the steps before '{step.name}' have {before:g} {what} already, and '{of}' has "
                f"{wanted:g} in all; give them fewer epochs (under ZeRO-3 operations cannot be counted: use steps_of)"
            )
        each = 1.0 if step.steps_of else self.flops_per_step(arm, step, place, words)
        return ["--max_steps", str(max(1, round((wanted - before) / each * step.steps_share)))]

    def finished(self, arm: Arm, step: Step, place: Place) -> Done:
        """A step of another arm, its last stage with the value that was kept where there are `trials`."""
        tried = self.args.trials and step == arm.trained
        return self.best_trial(arm, place) if tried else self.step(arm, step, place)

    def flops_per_step(self, arm: Arm, step: Step, place: Place, words: list[str]) -> float:
        """What a step of a training costs, from a few that are thrown away: it depends on how long its rows are."""
        few = words_of(
            {"max_steps": FEW, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
        )
        own = [word for pair in zip(words[::2], words[1::2], strict=True) if pair[0] not in few for word in pair]
        tried = self.trained(step, [*own, *few], place.folder(self.out) / arm.name / f"{step.name}_few", place)
        return tried.cost["flops"] / FEW

    def best_trial(self, arm: Arm, place: Place) -> Done:
        """The last stage of an arm with each value of `trials`: the best on validation, the first among equals."""
        ((key, values),) = self.args.trials.items()
        tried = []
        for value in values:
            extra = words_of({key: value})
            done = self.step(arm, arm.trained, place, suffix=f"_{key}_{folder_name(extra[1])}", extra=extra)
            if done.record["best_validation"] is None:
                raise UserError(
                    f"'trials' needs a validation accuracy in the last stage of arm '{arm.name}'; set eval_strategy"
                )
            tried.append(done)
        best = max(tried, key=lambda done: done.record["best_validation"])
        seen = {str(value): done.record["best_validation"] for value, done in zip(values, tried, strict=True)}
        best.record = best.record | {"trials": seen}
        return best

    def scored(self, output: Path, place: Place, arm: Arm, words: list[str]) -> Cell:
        """One evaluation on the clips of a draw."""
        return self.evaluated(output, arm, [*self.drawn(place), *words])

    def evaluated(self, output: Path, arm: Arm, words: list[str]) -> Cell:
        """One evaluation, with what its files say."""
        self.run("eval", [self.args.eval, "--output_dir", str(output), *words, *words_of(arm.evaluate)])
        return {"predictions": str(output / "predictions.jsonl"), "metrics": read_json(output / "metrics.json")}

    def elsewhere(self, folder: Path, arm: Arm, checkpoint: list[str]) -> Cell:
        """Evaluations on other cards: domain shift, novel classes; only label scores can be asked for there."""
        if not self.args.other_cards:
            return {}
        found = {}
        for card, words in self.args.other_cards.items():
            if arm.evaluate.get("method", "score") == "score":
                given = [*other_card(self.args, card), *checkpoint, *(words if arm.trained else [])]
                found[Path(card).stem] = self.evaluated(folder / f"eval_{Path(card).stem}", arm, given)
        return {"elsewhere": found}

    def history(self, arm: Arm, place: Place, last: Done) -> Cell:
        """Curves of the trainings one after the other, the rationales, and the best validation accuracy."""
        stages = [done for done in closure({last.path: last}).values() if done.record]
        curves, offset = [], 0
        for done in stages:
            curves += [entry | {"step": entry["step"] + offset} for entry in done.record.get("curves", [])]
            offset += done.record["steps"]
        texts = [self.step(arm, s, place).path for s in arm.steps if s.entry in ("rationales", "texts")]
        texts = [path for path in texts if path.is_file()]
        summary = read_json(texts[-1].with_suffix(".summary.json")) if texts else {}
        return {
            "curves": curves,
            "validation_accuracy": last.record["best_validation"],
            "trials": last.record.get("trials"),
            "stage1_steps": stages[0].record["steps"] if len(stages) > 1 else None,
            "rationales": str(texts[-1]) if texts else None,
            "kept": summary.get("kept"),
            "yields": last.record.get("yields"),
        }

    def drawn(self, place: Place) -> list[str]:
        """What the comparison overrides in every recipe on this draw."""
        shots = ["--shots", str(place.shots)] if place.shots else []
        drawn = ["--draw", str(place.draw)] if place.shots or self.data.shots else []  # else every draw has all labels
        return [*shared(self.args), *shots, *drawn]

    def run(self, entry: str, argv: list[str]) -> None:
        """Runs an entry in this process, or as one `accelerate launch`.

        Raises:
            UserError: if the launched processes failed; what they printed stands above.
        """
        if self.args.launch is None:
            with one_part():
                MAINS[entry](argv)
        elif entry == "star":  # a driver itself: each of its parts is launched
            star.main([*argv, "--launch", self.args.launch])
        else:
            run_launched(self.args.launch, entry, argv)


def _steps(done: Iterable[Done]) -> float:
    return sum(step.cost.get("steps") or 0 for step in done)


def folder_name(value: str) -> str:
    """A value of `trials` in the name of a folder: as it stands; if that is no name, its letters and a fingerprint."""
    if not {"/", "\0"} & set(value) and len(value.encode()) <= LONGEST_NAME:
        return value
    return f"{NO_NAME.sub('-', value)[:40]}-{fingerprint(value)}"


def shared(args: CompareArguments) -> list[str]:
    """What the comparison overrides in every recipe."""
    return words_of({key: value for key, value in (("task", args.task), ("setup", args.setup)) if value})


def other_card(args: CompareArguments, card: str) -> list[str]:
    """The words of an evaluation on another card, on which nothing is drawn."""
    setup = ["--setup", args.setup] if args.setup else []
    return [*setup, "--task", card, "--shots", "null", "--draw", "0"]
