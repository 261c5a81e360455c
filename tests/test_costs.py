"""What steps of arms cost: tokens of stage 0, and the sum over all that an arm was made from."""

from pathlib import Path

from rbft_trl.costs import Done, cost_of, tokens_written
from rbft_trl.data.manifest import read_manifest
from rbft_trl.start import Task
from tests.helpers import make_collator


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
