"""Video-STaR: cycles of answering, checking, explaining the label of what failed, and training from the base.

Input: a recipe that names those of its parts. Output: cycle0/, cycle1/, … and final/, star.json, yields.png.
Command: python rbft_trl/star.py recipes/star.yaml
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from rbft_trl import eval as evaluation
from rbft_trl import rationales, sft
from rbft_trl.configs import AdapterArguments, DataArguments, EvalArguments, ModelArguments, StageArguments
from rbft_trl.costs import COSTS, Done, cost_of, first_seconds, tokens_written
from rbft_trl.data.jsonl import check_folder, make_folder, read_json, read_jsonl, write_json, write_jsonl
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import NothingKept, UserError, run_entry
from rbft_trl.evidence.yields import save_yields_picture, share, table_of, yields_of
from rbft_trl.launched import check_launch_file, run_launched
from rbft_trl.model.provenance import read_record
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe, words_of
from rbft_trl.star_config import StarArguments
from rbft_trl.start import open_task
from rbft_trl.stopping import Stopped, one_part
from rbft_trl.training_config import TrainingConfig

TRAINING = (AdapterArguments, StageArguments, TrainingConfig)
MAINS = {"rationales": rationales.main, "sft": sft.main, "eval": evaluation.main}
SAME = ("task", "shots", "definitions", "num_frames", "fps", "max_frames", "min_pixels", "max_pixels")
SAME += ("min_decodable", "on_bad_clip")
TOLD = ("init", "weights", "steps", "presentations")


def main(argv: list[str]) -> dict[str, Any]:
    """Runs what is not finished yet; returns star.json."""
    (args,) = parse_recipe(argv, StarArguments)
    check_folder(args.output_dir)
    card, data, base = check(args)
    transformers_logging.disable_progress_bar()
    star = Star(args, card, data, base)
    cycles, stopped, more = star.run_cycles()
    print(f"\n{table_of(cycles)}\n\n{stopped}")  # before the final stage, which may find nothing to learn from
    best = max(cycles, key=share)  # of equal ones the first
    result = {"task": card.name, "answer": card.answer.to_dict(), "cycles": cycles, "stopped": stopped}
    result |= star.finish(best, f"{stopped}; {more}")
    write_json(star.out / "star.json", result)
    print(f"\nthe final stage learned from cycle {best['cycle']}")
    print(f"result: '{result['final']}', its evaluation: '{star.out / 'eval'}'")
    return result


def check(args: StarArguments) -> tuple[TaskCard, DataArguments, ModelArguments]:
    """Every mistake in the recipes of the parts, before the first of them starts; returns the card, data and base.

    Raises:
        UserError: naming the key, the file and the way out.
    """
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UserError(
            f"{processes} processes were started, but star.py is a driver: start it alone, with launch: "
            "accelerate_configs/multi_gpu.yaml, and each of its parts gets these processes"
        )
    check_launch_file(args.launch)
    own = {"rationales": (RationaleArguments,), "stage1": TRAINING, "eval": (EvalArguments,)}
    own |= {"stage2": TRAINING} if args.stage2 else {}
    seen = {
        key: parse_recipe(
            [getattr(args, key), *shared(args)],
            DataArguments,
            ModelArguments,
            *own[key],
            given_by="Video-STaR's options",
        )
        for key in own
    }
    written, first = seen["rationales"][2], seen["stage1"][3]
    needed = [
        ("rationales", "label_shown", written.label_shown, ("blind_then_hint",)),
        ("rationales", "checks", written.checks, ("label_match", "all")),
        ("rationales", "checkpoint", written.checkpoint, (None,)),
        ("rationales", "server_url", written.server_url, (None,)),
        ("stage1", "init", first.init, ("base",)),
        ("stage1", "target", first.target, ("rationale", "rationale_label")),
        ("stage1", "label_in_prompt", first.label_in_prompt, (False,)),
    ]
    needed += [("stage2", "target", seen["stage2"][3].target, ("label",))] if args.stage2 else []
    for key, name, value, wanted in needed:
        if value not in wanted:
            raise UserError(
                f"'{name}' is {value!r} in {getattr(args, key)}, but Video-STaR needs {wanted[0]!r}; change it"
            )
    for key, (data, base, *_) in seen.items():
        for name in (*SAME, "model_name_or_path", "model_revision", "load_in_4bit", "dtype"):
            group, other = (data, seen["eval"][0]) if name in SAME else (base, seen["eval"][1])
            if getattr(group, name) != getattr(other, name):
                raise UserError(
                    f"'{name}' is {getattr(group, name)} in {getattr(args, key)} and differs in {args.eval}"
                )
    data, base, *_ = seen["eval"]
    card = TaskCard.from_yaml(data.task)
    asked = parse_recipe(
        [args.eval, *shared(args), *evaluated(args, card)], DataArguments, ModelArguments, EvalArguments
    )
    own, wanted = seen["eval"][2], ("greedy",) if card.is_open else ("score", "reason")
    if own.frame_order != "original" or own.method not in (*wanted, "score") or asked[2].method not in wanted:
        raise UserError(
            f"{args.eval} has method {own.method!r} and frame_order {own.frame_order!r}, but the result of Video-STaR "
            f"is evaluated with {' or '.join(wanted)} and original frames; change it"
        )
    return card, data, base


def evaluated(args: StarArguments, card: TaskCard) -> list[str]:
    """How the result answers where the recipe says `score`: open answers are written, and without a stage 2 it was
    never trained to answer with a bare name."""
    method = "greedy" if card.is_open else None if args.stage2 else "reason"
    return words_of({"method": method}) if method else []


def shared(args: StarArguments) -> list[str]:
    """What is overridden in every recipe."""
    given = {"task": args.task, "setup": args.setup, "shots": args.shots, "draw": args.draw}
    return words_of({key: value for key, value in given.items() if value not in (None, "")})


class Star:
    """The cycles of one run; each part is an entry run with its recipe, and is reused where it is finished."""

    def __init__(self, args: StarArguments, card: TaskCard, data: DataArguments, base: ModelArguments) -> None:
        self.args = args
        self.card = card
        self.out = make_folder(args.output_dir)
        self.task = open_task(data, base)
        self.made: dict[Path, Done] = {}

    def run_cycles(self) -> tuple[list[dict[str, Any]], str, str]:
        """The cycles, why they ended and what would run more; the last is not trained on if its yield did not rise."""
        cycles: list[dict[str, Any]] = []
        writer: dict[str, Any] | None = None
        for number in range(self.args.cycles):
            cycle = self.generate(number, writer)
            cycles.append(cycle)
            write_json(self.out / "yields.json", {"cycles": cycles})
            if number and (rise := share(cycle) - share(cycles[-2])) < self.args.min_rise:
                stopped = f"the yield rose by {rise:.3f}, less than min_rise = {self.args.min_rise}"
                more = "lower min_rise" + (" and run more cycles" if number + 1 == self.args.cycles else "")
                break
            writer = self.train(f"cycle{number}/model", self.rationales_of(number))
            cycle["trained"] = {key: writer[key] for key in TOLD}
            write_json(self.out / "yields.json", {"cycles": cycles})
        else:
            stopped, more = f"all {self.args.cycles} cycles were run", "run more cycles"
        save_yields_picture(cycles, self.out / "yields.png")
        return cycles, stopped, more

    def generate(self, number: int, writer: dict[str, Any] | None) -> dict[str, Any]:
        """One cycle up to its kept pairs: answers without the label, then with it where they failed."""
        file = self.rationales_of(number)
        words = ["--use_pool", "false", "--seed", str(self.args.seed), "--output_file", str(file)]
        if writer is not None:
            words += ["--checkpoint", str(self.out / f"cycle{number - 1}/model")]
        started = time.perf_counter()
        self.run(f"cycle {number}: generate", "rationales", self.args.rationales, *words)
        seconds, samples = first_seconds(file, time.perf_counter() - started), read_jsonl(file)
        self.made[file] = Done(file, {"tokens": tokens_written(samples, self.task), "seconds": seconds})
        yields = yields_of(samples, self.card)
        by = writer["weights"] if writer else "base"
        print(
            f"cycle {number}: " + ", ".join(f"{yields[way]} {way}" for way in ("generated", "rationalised", "dropped"))
        )
        return {"cycle": number, "written_by": by, **yields, "trained": None}

    def rationales_of(self, number: int) -> Path:
        """The file of a cycle's pairs."""
        return self.out / f"cycle{number}" / "rationales.jsonl"

    def train(self, folder: str, pairs: Path) -> dict[str, Any]:
        """Trains on kept pairs, from the base and never from the last cycle; the prompt is the plain one."""
        record = self.stage(folder, self.args.stage1, "--rationales", str(pairs))
        assert record["init"] == "base" and not record["recipe"]["label_in_prompt"], "STaR trains from the base"
        return record

    def stage(self, folder: str, recipe: str, *words: str) -> dict[str, Any]:
        """One training; returns its record."""
        words = (*words, "--seed", str(self.args.seed), "--output_dir", str(self.out / folder))
        self.run(f"train {folder}", "sft", recipe, *words, "--resume_from_checkpoint", "true")
        record = read_record(self.out / folder)
        self.made[self.out / folder] = Done(self.out / folder, {key: record[key] for key in COSTS}, record)
        return record

    def finish(self, best: dict[str, Any], ended: str) -> dict[str, Any]:
        """The final stage, stage 2 if it is wanted, and the evaluation."""
        pairs = self.final_pairs(best, ended)
        final = self.train("final", pairs)
        stages = {"final": {key: final[key] for key in TOLD} | {"cycle": best["cycle"]}}
        result = self.out / "final"
        if self.args.stage2:
            second = self.stage("stage2", self.args.stage2, "--init", str(result))
            stages["stage2"], result = {key: second[key] for key in TOLD}, self.out / "stage2"
        words = ["--checkpoint", str(result), "--output_dir", str(self.out / "eval"), *evaluated(self.args, self.card)]
        self.run("evaluate", "eval", self.args.eval, *words)
        metrics = read_json(self.out / "eval/metrics.json")
        keys = ("n", "accuracy", "accuracy_interval", "generated_accuracy", "mean_absolute_error", "mean_iou")
        keys += ("chance", "constant")
        last = self.made.pop(result)
        return {
            "stages": stages,
            "final": str(result),
            "evaluation": {key: metrics[key] for key in keys if key in metrics},
            "cost": cost_of(Done(last.path, last.cost, last.record, needs=self.made)),
        }

    def final_pairs(self, best: dict[str, Any], ended: str) -> Path:
        """The pairs of the final stage: of the best cycle, without those that were told the label (see final_pairs).

        Raises:
            NothingKept: if a class would be left without any; says why the cycles ended and what would run more.
        """
        file = self.rationales_of(best["cycle"])
        if self.args.final_pairs == "kept":
            return file
        named = {} if self.card.is_open else best["per_class"]
        if lacking := [name for name, own in {**named, "the task": best}.items() if not own["generated"]]:
            raise NothingKept(
                f"'{lacking[0]}' has no direct right answer in cycle {best['cycle']}, so the final stage would learn "
                f"nothing of it, and {ended}, sample more (num_samples), or set final_pairs: kept"
            )
        told = {"verdict": "dropped", "reason": "rationalised"}
        rows = [row | (told if row["shown"] and row["verdict"] == "kept" else {}) for row in read_jsonl(file)]
        pairs = self.out / "final_pairs.jsonl"
        shutil.copy(rationales.summary_file(file), rationales.summary_file(pairs))
        write_jsonl(pairs, rows)
        return pairs

    def run(self, what: str, entry: str, recipe: str, *words: str) -> None:
        """One part, in this process or under the launch file; its messages name the part."""
        argv = [recipe, *shared(self.args), *words]
        print(f"\n{what}", flush=True)
        try:
            if self.args.launch:
                run_launched(self.args.launch, entry, argv)
            else:
                with one_part():
                    MAINS[entry](argv)
        except UserError as error:
            raise type(error)(f"{what}: {error}; its files lie below '{self.out}'") from None
        except Stopped as stop:
            raise Stopped(f"{what}: {stop.done}") from None


if __name__ == "__main__":
    run_entry(main)
