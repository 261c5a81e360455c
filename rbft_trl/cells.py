"""Runs the steps of arms: each is an entry with a recipe, a draw and a folder of its own; finished ones are reused.

Input: arms, recipes, a draw and a number of shots. Output: cells of comparison.json.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbft_trl import eval as evaluation
from rbft_trl import rationales, sft, star
from rbft_trl.arms import Arm, Step, references
from rbft_trl.compare_config import CompareArguments
from rbft_trl.configs import DataArguments, EvalArguments, ModelArguments
from rbft_trl.costs import COSTS, Done, Place, closure, cost_of
from rbft_trl.data.jsonl import read_json, read_jsonl, write_json
from rbft_trl.errors import UserError
from rbft_trl.launched import run_launched
from rbft_trl.model.provenance import read_record
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import Task, open_task
from rbft_trl.texts import make_texts

Cell = dict[str, Any]
MAINS: dict[str, Callable[[list[str]], Any]] = {
    "rationales": rationales.main,
    "sft": sft.main,
    "eval": evaluation.main,
    "star": star.main,
}


class Cells:
    """Makes the cells of a comparison, one step after the other.

    Args:
        args (`CompareArguments`): Recipes, card and folders.
        arms (`dict`): Every arm by name.
    """

    def __init__(self, args: CompareArguments, arms: dict[str, Arm]) -> None:
        self.args, self.arms, self.out = args, arms, Path(args.output_dir)
        self.data, self.base, self.eval = parse_recipe(
            [args.eval, *shared(args)], DataArguments, ModelArguments, EvalArguments
        )
        self.truth = {row["id"]: row for row in read_jsonl(args.oracle_texts)} if args.oracle_texts else {}
        self.done: dict[tuple[str, str, Place], Done] = {}
        self.once: dict[tuple[str, int | None], Cell] = {}
        self.tasks: dict[Place, Task] = {}

    def task(self, place: Place) -> Task:
        """The rows of a draw."""
        if place not in self.tasks:
            self.data.draw = place.draw
            given, self.data.shots = self.data.shots, place.shots or self.data.shots
            self.tasks[place] = open_task(self.data, self.base)
            self.data.shots = given
        return self.tasks[place]

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
        cell |= {"curves": [], "validation_accuracy": None, "stage1_steps": None, "rationales": None, "kept": None}
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

    def step(self, arm: Arm, step: Step, place: Place, *, suffix: str = "", extra: tuple[str, ...] = ()) -> Done:
        """Runs one step, and before it those that it refers to."""
        key = (arm.name, step.name + suffix, place)
        if key in self.done:
            return self.done[key]
        needs, words = {}, []
        for name, value in step.settings.items():
            for other, target in references(value, arm.name):
                parent = self.step(self.arms[other], self.arms[other].step(target), place)
                needs[parent.path], value = parent, str(parent.path)
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        folder = place.folder(self.out) / arm.name
        started = time.perf_counter()
        if step.entry == "texts":
            done = self.texts(step, dict(zip((w[2:] for w in words[::2]), words[1::2], strict=True)), folder, place)
        elif step.entry == "rationales":
            done = self.rationales(step, words, folder / f"{step.name}.jsonl", place)
        else:
            words += self.matched(arm, step, place, needs)
            done = self.trained(step, [*words, *extra], folder / (step.name + suffix), place)
        done.cost.setdefault("seconds", self.seconds(done.path, time.perf_counter() - started))
        done.needs = needs
        self.done[key] = done
        return done

    def texts(self, step: Step, settings: dict[str, Any], folder: Path, place: Place) -> Done:
        """Texts cost nothing worth counting, and are made again."""
        task, output = self.task(place), folder / f"{step.name}.jsonl"
        given = {key: settings[key] if isinstance(step.settings[key], str) else step.settings[key] for key in settings}
        make_texts(step.recipe, task, output, settings=given, truth=self.truth, base=self.base, seed=place.draw)
        return Done(output, {"seconds": 0.0})

    def rationales(self, step: Step, words: list[str], output: Path, place: Place) -> Done:
        """Stage 0. Its cost: the tokens of prompts (once per clip that is read) and of texts."""
        own = ["--seed", str(place.draw), "--output_file", str(output)]
        self.run("rationales", [self.recipe(step), *self.drawn(place), *own, *words])
        samples, collator = read_jsonl(output), self.task(place).collator()
        read = {(s["id"], bool(s.get("shown"))) for s in samples}
        text = sum(len(collator.encode(s["text"])) for s in samples)
        prompt = len(collator.encode(collator.card.rationale_prompt(definitions=collator.definitions)))
        return Done(output, {"tokens": text + prompt * len(read)})

    def trained(self, step: Step, words: list[str], folder: Path, place: Place) -> Done:
        """A stage, or Video-STaR."""
        own = ["--seed", str(place.draw), "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
        if step.entry == "star":  # with the labels after it, so that it is scored as all others are
            own = [*own[:-2], "--stage2", self.args.stage2]
        self.run(step.entry, [self.recipe(step), *self.drawn(place), *own, *words])
        if step.entry == "star":
            found = read_json(folder / "star.json")
            record = read_record(found["final"])
            return Done(Path(found["final"]), {key: found["cost"][key] for key in COSTS}, record)
        record = read_record(folder)
        return Done(folder, {key: record[key] for key in COSTS}, record)

    def matched(self, arm: Arm, step: Step, place: Place, needs: dict[Path, Done]) -> list[str]:
        """`--max_steps`, where a step has as many as another arm or step."""
        if step.steps_of is None:
            return []
        other, _, target = step.steps_of.partition("/")
        model = self.arms[other]
        if target:
            steps = self.step(model, model.step(target), place).cost["steps"]
            return ["--max_steps", str(max(1, round(steps * step.steps_share)))]
        wanted = sum(self.step(model, s, place).cost.get("steps", 0) for s in model.steps)
        before = sum(done.cost.get("steps", 0) for done in closure(needs).values())
        if wanted <= before:
            raise UserError(
                f"arm '{arm.name}': the steps before '{step.name}' have {before:g} optimiser steps already, and "
                f"'{other}' has {wanted:g} in all; give them fewer epochs"
            )
        return ["--max_steps", str(max(1, round((wanted - before) * step.steps_share)))]

    def best_trial(self, arm: Arm, place: Place) -> Done:
        """The last stage of an arm with each value of `trials`: the best on validation, the first among equals."""
        ((key, values),) = self.args.trials.items()
        tried = []
        for value in values:
            text = value if isinstance(value, str) else json.dumps(value)
            done = self.step(arm, arm.trained, place, suffix=f"_{key}_{text}", extra=(f"--{key}", text))
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
        """One evaluation, with what its files say."""
        given = [w for key, value in arm.evaluate.items() for w in (f"--{key}", _text(value))]
        self.run("eval", [self.args.eval, *self.drawn(place), "--output_dir", str(output), *words, *given])
        return {"predictions": str(output / "predictions.jsonl"), "metrics": read_json(output / "metrics.json")}

    def elsewhere(self, folder: Path, arm: Arm, checkpoint: list[str]) -> Cell:
        """Evaluations on other cards: domain shift, novel classes; only label scores can be asked for there."""
        cards = [(card, []) for card in self.args.elsewhere]
        cards += [(self.args.novel, ["--unseen_labels", "true"])] if self.args.novel else []
        found = {}
        for card, words in cards:
            if arm.evaluate.get("method", "score") != "score":
                continue
            given = words if arm.trained else []
            output = folder / f"eval_{Path(card).stem}"
            setup = ["--setup", self.args.setup] if self.args.setup else []
            draw = [self.args.eval, *setup, "--task", card, "--shots", "null", "--output_dir", str(output)]
            extra = [w for key, value in arm.evaluate.items() for w in (f"--{key}", _text(value))]
            self.run("eval", [*draw, *checkpoint, *given, *extra])
            found[Path(card).stem] = {
                "predictions": str(output / "predictions.jsonl"),
                "metrics": read_json(output / "metrics.json"),
            }
        return {"elsewhere": found} if cards else {}

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
        }

    def recipe(self, step: Step) -> str:
        """The recipe of a step: a key of the comparison, or a file."""
        return step.recipe if step.recipe.endswith(".yaml") else getattr(self.args, step.recipe)

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
            MAINS[entry](argv)
            return
        run_launched(self.args.launch, entry, argv)

    def seconds(self, path: Path, spent: float) -> float:
        """The time of the first, complete run of a step that keeps no record of its own time."""
        file = path.with_suffix(".seconds.json")
        if not file.is_file():
            write_json(file, {"seconds": round(spent, 2)})
        return read_json(file)["seconds"]


def shared(args: CompareArguments) -> list[str]:
    """What the comparison overrides in every recipe."""
    given = {"--task": args.task, "--setup": args.setup}
    return [word for key, value in given.items() if value for word in (key, value)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
