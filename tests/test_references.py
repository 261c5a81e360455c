"""What an arm's steps take from one another is checked before anything runs: the toy's comparison, arms bent."""

from pathlib import Path
from typing import Any

import pytest

from rbft_trl.arms import read_arms
from rbft_trl.errors import UserError
from rbft_trl.references import check_references
from tests.helpers import REPOSITORY
from tests.test_fairness import STEP, at_home, check  # noqa: F401

TEXTS = {"texts": "shuffled", "source": "<rbft/rationales>"}
STAGE1 = {"recipe": "stage1", "rationales": "<texts>", "steps_of": "rbft/stage1"}
STAGE2 = {"recipe": "stage2", "init": "<stage1>"}
WRITTEN = {"recipe": "rationales"}


def steps(**changes: dict[str, Any]) -> dict[str, Any]:
    """The steps of an arm as `shuffled` has them, some with other lines."""
    made = {"texts": TEXTS, "stage1": STAGE1, "stage2": STAGE2}
    return {"steps": {name: {**line, **changes.get(name, {})} for name, line in made.items()}}


MISTAKES = {
    "source without brackets": (
        steps(texts={"source": "rbft/rationales"}),
        "step 'texts': 'source' is 'rbft/rationales', which is no file; .* <rbft/rationales>",
    ),
    "rationales without brackets": (
        steps(stage1={"rationales": "texts"}),
        "step 'stage1': 'rationales' is 'texts', which is no file; .* <texts>",
    ),
    "a file that is not there": (
        steps(texts={"source": "outputs/nowhere.jsonl"}),
        "'source' is 'outputs/nowhere.jsonl', which is no file",
    ),
    "init without brackets": (steps(stage2={"init": "stage1"}), "'init' is 'stage1', which is no folder; .* <stage1>"),
    "a misspelt model": (steps(stage2={"init": "stge1"}), "'init' is 'stge1', which is no folder; .* <stage1>"),
    "a misspelt writer": (
        {"steps": {"texts": WRITTEN | {"checkpoint": "stge1"}, "stage1": STAGE1, "stage2": STAGE2}},
        "step 'texts': 'checkpoint' is 'stge1', which is no folder",
    ),
    "a writer without brackets": (
        {"steps": {"texts": WRITTEN | {"checkpoint": "rbft/stage1"}, "stage1": STAGE1, "stage2": STAGE2}},
        "'checkpoint' is 'rbft/stage1', which is no folder; .* <rbft/stage1>",
    ),
    "a very long name": (steps(texts={"source": "x" * 300}), "'source' is 'x+', which is no file; .* <rationales>"),
    "pseudo-labels of nothing": (
        steps(texts={"texts": "pseudo_labels", "source": "dirct"}),
        "'source' is 'dirct', which is no folder; .* <stage1>",
    ),
    "a source that is no text": (steps(texts={"source": 5}), "step 'texts': 'source' is 5 but must be text"),
    "a column that is no text": (
        {"steps": {"texts": {"texts": "oracle", "column": ["a"]}, "stage1": STAGE1, "stage2": STAGE2}},
        r"step 'texts': 'column' is \['a'\] but must be text",
    ),
    "steps of nobody": (steps(stage1={"steps_of": ""}), "'steps_of' of step 'stage1' is '' but must be an arm"),
    "a model for texts": (
        steps(stage1={"rationales": "<rbft/stage1>"}),
        "'rationales' is '<rbft/stage1>', which is a trained model, but takes a file of texts",
    ),
    "texts for a model": (
        steps(stage2={"init": "<texts>"}),
        "'init' is '<texts>', which is a file of texts, but takes a trained model",
    ),
    "pseudo-labels of a file": (
        steps(texts={"texts": "pseudo_labels"}),
        "'source' is '<rbft/rationales>', which is a file of texts, but takes a trained model",
    ),
    "steps of no training": (
        steps(stage1={"steps_of": "zero_shot"}),
        "step 'stage1': 'steps_of' is 'zero_shot', which trains nothing",
    ),
    "steps of texts": (steps(stage1={"steps_of": "rbft/rationales"}), "'rbft/rationales', which trains nothing"),
    "operations of texts": (
        {"steps": {"one": STEP | {"flops_of": "rbft/rationales"}}},
        "'flops_of' is 'rbft/rationales', which trains nothing",
    ),
    "a folder": (steps(stage1={"output_dir": "mine"}), "step 'stage1': 'output_dir' is set by the comparison"),
    "a file": (
        {"steps": {"texts": WRITTEN | {"output_file": "mine.jsonl"}, "stage1": STAGE1, "stage2": STAGE2}},
        "step 'texts': 'output_file' is set by the comparison",
    ),
    "going on": (steps(stage2={"resume_from_checkpoint": True}), "'resume_from_checkpoint' is set by the comparison"),
    "a folder of the evaluation": (
        steps() | {"evaluate": {"output_dir": "mine"}},
        "the evaluation of arm 'mine': 'output_dir' is set by the comparison",
    ),
    "another model": (
        steps() | {"evaluate": {"checkpoint": "<rbft/stage2>"}},
        "the evaluation of arm 'mine': 'checkpoint' is set by the comparison",
    ),
    "an unused stage": (
        steps(stage2={"init": "<rbft/stage1>"}),
        "step 'stage1': no other step takes what it makes, .* refer to it as <stage1>, or take it out",
    ),
    "from labels": (
        {"steps": {"one": {"recipe": "stage2", "init": "<rbft/stage2>"}}},
        "step 'one': 'init' is '<rbft/stage2>', which is trained on bare labels",
    ),
    "written by labels": (
        {"steps": {"texts": WRITTEN | {"checkpoint": "<rbft/stage2>"}, "stage1": STAGE1, "stage2": STAGE2}},
        "step 'texts': 'checkpoint' is '<rbft/stage2>', which is trained on bare labels",
    ),
    "no such reference": (
        {"steps": {"texts": WRITTEN | {"instruction": "<rbft/rationales>"}, "stage1": STAGE1, "stage2": STAGE2}},
        "'instruction' is '<rbft/rationales>' but takes no reference",
    ),
}


@pytest.mark.parametrize(("arm", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_what_a_step_takes(tmp_path: Path, arm: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, mine=arm)


def test_a_recipe_that_names_a_file_of_another_run(tmp_path: Path) -> None:
    mine = {"steps": {"stage1": {"recipe": "stage1"}, "stage2": STAGE2}}
    with pytest.raises(
        UserError, match=r"step 'stage1': 'rationales' is 'nowhere.jsonl' in .*stage1.yaml, which is no"
    ):
        check(tmp_path, mine=mine, recipe={"stage1": {"rationales": "nowhere.jsonl"}})


def test_a_file_that_is_there_and_what_only_others_take_are_right(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("")
    mine = steps(texts={"source": str(tmp_path / "own.jsonl")})
    assert set(check(tmp_path, mine=mine)) == {"direct", "rbft", "mine"}
    arms = read_arms(["joint", "direct"], str(REPOSITORY / "recipes/arms"))
    check_references(arms, ["joint", "direct"])  # of rbft the texts alone are made
