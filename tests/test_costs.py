"""What steps of arms cost: tokens of stage 0, and the sum over all that an arm was made from."""

from pathlib import Path

import pytest

from rbft_trl.arms import Arm, Step
from rbft_trl.cells import Cells
from rbft_trl.compare_config import CompareArguments
from rbft_trl.costs import Done, Place, cost_of, tokens_written
from rbft_trl.data.manifest import read_manifest
from rbft_trl.recipe import parse_recipe, split_argv, words_of
from rbft_trl.start import Task
from tests.helpers import REPOSITORY, make_collator


def test_tokens_of_stage_0_are_those_of_clips_prompts_and_texts(toy_set: tuple, smoke_base: Path) -> None:
    collator = make_collator(*toy_set, smoke_base)
    rows = [{"id": i, "video": f"clips/toy0000{i}.mp4", "label": "dorvan", "split": "train"} for i in "01"]
    manifest = read_manifest(rows, collator.root, collator.frames, factor=collator.factor)
    task = Task(collator.card, collator.root, rows, collator.frames, collator.processor, manifest, definitions=False)
    text = {"text": "one small red circle"}
    samples = [
        {"id": "0", "shown": False} | text,
        {"id": "0", "shown": False} | text,
        {"id": "0", "shown": True} | text,
    ]
    samples.append({"id": "1", "shown": False} | text)
    batch = collator.prompts(rows, [collator.rationale_prompt(row) for row in rows])
    lengths = batch["attention_mask"].sum(1).tolist()
    written = len(collator.encode(text["text"]))
    assert (
        tokens_written(samples, task) == 2 * (lengths[0] + 1) + lengths[1] + 1 + 4 * written
    )  # and an end token each


def test_writing_costs_a_third_of_training_per_token() -> None:
    written = Done(Path("r.jsonl"), {"tokens": 300, "seconds": 2.0})
    first = Done(Path("one"), {"steps": 4, "presentations": 32, "tokens": 600, "flops": 60.0, "seconds": 5.0})
    first.needs = {written.path: written}
    last = Done(Path("two"), {"steps": 2, "presentations": 16, "tokens": 400, "flops": 40.0, "seconds": 3.0})
    last.needs = {first.path: first, written.path: written}  # counted once
    cost = cost_of(last)
    assert (cost["steps"], cost["presentations"], cost["tokens"], cost["seconds"]) == (6, 48, 1300, 10.0)
    assert cost["flops"] == 100 * (1 + 300 / 1000 / 3)
    first.cost["flops"] = None  # ZeRO-3 cannot count them
    assert cost_of(last)["flops"] is None


def test_a_step_may_set_what_the_few_steps_that_tell_its_cost_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    run = Cells(*parse_recipe(["recipes/toy/compare.yaml", "--oracle_texts", "null"], CompareArguments), {})
    asked: list[list[str]] = []
    monkeypatch.setattr(run, "trained", lambda step, words, *_: asked.append(words) or Done(Path(), {"flops": 8.0}))
    step = Step("one", "sft", "direct", {"eval_strategy": "steps", "eval_steps": 0.5}, flops_of="rbft")
    arm = Arm("mine", "x", (step,), {}, None)
    assert run.flops_per_step(arm, step, Place(0, None), words_of(step.settings)) == 2.0
    _, given = split_argv(asked[0])  # each key once
    assert given["eval_strategy"] == "no" and given["eval_steps"] == "0.5" and given["max_steps"] == "4"
