"""What stage 0 asks beside the plain prompt: another class as the hint, or an instruction of the recipe's own."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rbft_trl import rationales
from rbft_trl.configs import DataArguments, ModelArguments, StageArguments
from rbft_trl.data.jsonl import read_json, read_jsonl
from rbft_trl.data.task import fingerprint
from rbft_trl.errors import UserError
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe
from rbft_trl.stage_rows import training_rows
from rbft_trl.start import open_task
from rbft_trl.writers import hint_of, prompt_of
from tests.helpers import make_collator, toy_recipe

Toy = tuple[Path, Path]


def stage0(toy_set: Toy, base: Path, folder: Path, **changes: Any) -> str:
    changes = {"max_new_tokens": 4, "checks": "none", "label_shown": "hint"} | changes
    return toy_recipe("rationales", folder, toy_set[0], base, output_file=folder / "r.jsonl", **changes)


def test_the_hint_of_a_clip_is_another_class_and_always_the_same(toy_set: Toy, smoke_base: Path) -> None:
    collator = make_collator(*toy_set, smoke_base)
    args, names = RationaleArguments(output_file="x", label_shown="hint", hint="other", checks="none"), set()
    for i in range(60):
        row = {"id": str(i), "label": "dorvan"}
        shown = hint_of(row, args, collator.card, shown=True)
        assert shown == hint_of(row, args, collator.card, shown=True) != "dorvan"
        assert prompt_of(row, args, collator, shown=True) == collator.rationale_prompt(row, shown)
        names.add(shown)
    assert names == set(collator.card.names) - {"dorvan"}
    assert hint_of({"id": "p", "label": None}, args, collator.card, shown=True) is None
    gold = dataclasses.replace(args, hint="gold")
    assert hint_of({"id": "1", "label": "dorvan"}, gold, collator.card, shown=True) == "dorvan"


def test_stage_0_writes_under_the_hint_of_another_class(toy_set: Toy, smoke_base: Path, tmp_path: Path) -> None:
    samples = rationales.main([stage0(toy_set, smoke_base, tmp_path, hint="other")])
    card = make_collator(*toy_set, smoke_base).card
    prints = {name: fingerprint(card.rationale_prompt(name, definitions=False)) for name in card.names}
    for sample in samples:
        if sample["label"] is not None:
            assert sample["shown"] and sample["prompt_fingerprint"] in prints.values()
            assert sample["prompt_fingerprint"] != prints[sample["label"]]
    assert read_json(tmp_path / "r.summary.json")["stage0"]["hint"] == "other"
    with pytest.raises(UserError, match=r"was made with other settings \(stage0\)"):
        rationales.main([stage0(toy_set, smoke_base, tmp_path)])


def test_texts_that_were_hinted_after_other_checks(toy_set: Toy, smoke_base: Path, tmp_path: Path) -> None:
    """Which clips got a hint depends on the checks, so these are named."""
    recipe = stage0(toy_set, smoke_base, tmp_path, label_shown="blind_then_hint")
    rationales.main([recipe])
    with pytest.raises(UserError, match=r"r.jsonl' exists and was made with other settings \(checks\); delete it or"):
        rationales.main([recipe, "--checks", "all"])


def test_files_from_before_these_options_are_reused(toy_set: Toy, smoke_base: Path, tmp_path: Path) -> None:
    recipe = stage0(toy_set, smoke_base, tmp_path)
    rationales.main([recipe])
    assert not {"hint", "instruction"} & read_json(tmp_path / "r.summary.json")["stage0"].keys()


def test_captions_under_an_instruction_of_their_own(toy_set: Toy, smoke_base: Path, tmp_path: Path) -> None:
    """They are trained on under that instruction, whole, by clips with and without a label."""
    recipe = stage0(toy_set, smoke_base, tmp_path, label_shown="blind", instruction="Describe the clip.")
    samples = rationales.main([recipe])
    assert (
        {s["prompt"] for s in samples}
        == {"Describe the clip."}
        == {s["prompt"] for s in read_jsonl(tmp_path / "r.jsonl")}
    )
    assert {s["prompt_fingerprint"] for s in samples} == {fingerprint("Describe the clip.")}
    assert {s["verdict"] for s in samples} <= {"kept", "unlabelled", "dropped"} and not any(
        s["shown"] for s in samples
    )
    data, base = parse_recipe([recipe], DataArguments, ModelArguments, RationaleArguments)[:2]
    task = open_task(data, base)
    rows = training_rows(task, StageArguments(init="base", target="rationale", rationales=str(tmp_path / "r.jsonl")))
    collator, texts = task.collator(), {s["id"]: s["text"] for s in samples}
    assert any(row["label"] for row in rows) and any(row["label"] is None for row in rows)
    for row in rows:
        assert (
            collator.prompt_text(row) == "Describe the clip." and collator.answer_text(row) == texts[row["id"]].strip()
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hint": "other", "label_shown": "blind"}, "hint is other but label_shown is blind and checks none"),
        ({"hint": "other", "checks": "label_match"}, "label_shown is hint and checks label_match"),
        ({"instruction": "Say it."}, "instruction is set but label_shown is hint"),
        ({"instruction": "Say it.", "label_shown": "blind", "checks": "all"}, "checks all and writer free"),
        ({"instruction": "  ", "label_shown": "blind"}, "'instruction' is empty"),
        ({"hint": "own"}, "'hint' .*own.*gold"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str, toy_set: Toy, smoke_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        rationales.main([stage0(toy_set, smoke_base, tmp_path, **change)])
    assert not (tmp_path / "r.jsonl").exists()
