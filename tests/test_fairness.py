"""A comparison that would not be fair is refused before anything runs: shipped arms and recipes, copied and bent."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import fairness
from rbft_trl.compare_config import CompareArguments
from rbft_trl.errors import UserError
from rbft_trl.recipe import parse_recipe
from tests.helpers import REPOSITORY


def check(folder: Path, *words: str, recipe: dict[str, Any] | None = None, **arms: dict[str, Any]) -> dict[str, Any]:
    """Checks the toy's comparison of three arms, with `arms` added or changed, and `recipe`: {file: changes}."""
    shutil.copytree(REPOSITORY / "recipes", folder / "recipes")
    for name, changes in (recipe or {}).items():
        file = folder / f"recipes/toy/{name}.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes, sort_keys=False))
    for name, changes in arms.items():
        file = folder / f"recipes/arms/{name}.yaml"
        known = yaml.safe_load(file.read_text()) if file.is_file() else {"about": name}
        file.write_text(yaml.safe_dump(known | changes, sort_keys=False))
    names = ["direct", "rbft", *(set(arms) - {"direct", "rbft"})]
    trials = [] if "--trials" in words else ["--trials", "null"]
    trials += [] if "--arms" in words else ["--arms", f"[{', '.join(names)}]"]
    argv = [str(folder / "recipes/toy/compare.yaml"), *trials, *words]
    return fairness.check(*parse_recipe(argv, CompareArguments))


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


PROBED = {"evaluate": {"method": "probe"}}
STEP = {"recipe": "stage2", "init": "base"}
RBFT = yaml.safe_load((REPOSITORY / "recipes/arms/rbft.yaml").read_text())["steps"]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            {"probe": {"evaluate": {"method": "probe", "num_frames": 16}}},
            "'num_frames' is 16 in the evaluation",
        ),
        ({"probe": {"evaluate": {"split": "validation"}}}, "'split' is validation in the evaluation of arm 'probe'"),
        ({"direct": {"evaluate": {"label_score": "mean"}}}, "'label_score' is mean in the evaluation of arm 'direct'"),
        ({"direct": {"evaluate": {"definitions": True}}}, "'definitions' is True in the evaluation of arm 'direct'"),
        (
            {"rbft": {"role": "reference"}},
            "arm 'rbft' has role 'reference', but its result is the answer; leave the role",
        ),
        ({"direct": PROBED}, "has method probe, which looks at no trained model"),
        ({"mine": {"steps": {"one": STEP | {"seed": 3}}}}, "arm 'mine', step 'one': 'seed' is the same in all arms"),
        ({"mine": {"steps": {"one": STEP | {"draw": 7}}}}, "arm 'mine', step 'one': 'draw' is the same in all arms"),
        ({"mine": {"steps": {"one": STEP | {"lora_r": 0}}}}, "^arm 'mine', step 'one': 'lora_r' is 0 but must be at"),
        (
            {"mine": {"steps": {"one": STEP | {"lora_r": "x"}}}},
            r"^arm 'mine', step 'one': 'lora_r' is 'x' \(str\) but",
        ),
        (
            {"mine": {"steps": {"one": STEP | {"run_name": [1]}}}},
            r"^arm 'mine', step 'one': 'run_name' is \[1\] \(list\)",
        ),
        ({"probe": {"evaluate": {"method": ["probe"]}}}, "^the evaluation of arm 'probe': 'method' is .* must be str"),
        (
            {"rbft": {"steps": RBFT | {"rationales": {"recipe": "rationales", "instruction": {"Say": "it."}}}}},
            "^arm 'rbft', step 'rationales': 'instruction' is {'Say': 'it.'} .dict. but must be str or null",
        ),
        ({"probe": {"evaluate": {"methid": "x"}}}, "^the evaluation of arm 'probe': unknown key 'methid'; did you"),
        ({"mine": {"steps": {"one": STEP | {"eval_strategy": "epoch", "save_strategy": "epoch"}}}}, "the more often"),
        ({"mine": {"steps": {"one": STEP | {"eval_steps": 0.1, "save_steps": 0.1}}}}, "'eval_steps' is 0.1 in"),
    ],
)
def test_arms_that_are_not_fair(tmp_path: Path, arms: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, **arms)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--star", "nowhere.yaml"], "recipe 'nowhere.yaml' does not exist"),
        (["--first_draw", str(2**32)], "'first_draw' is 4294967296 but must be from 0 to 4294967295"),
        (["--elsewhere", "[recipes/tasks/toy.yaml]"], "toy.yaml, which is the comparison's own card"),
    ],
)
def test_options_that_would_be_found_out_late(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, *words, "--task", "recipes/tasks/toy.yaml")


def test_a_card_without_classes_is_not_compared(tmp_path: Path) -> None:
    card = str(REPOSITORY / "recipes/tasks/toy_number.yaml")
    with pytest.raises(UserError, match=r"toy_number.yaml has answers of type number, .* a comparison scores classes"):
        check(tmp_path / "own", "--task", card)
    for words in (["--novel", card], ["--elsewhere", f"[{card}]"]):
        with pytest.raises(
            UserError, match=rf"{words[0][2:]}: .*toy_number.yaml has answers of type number, no classes"
        ):
            check(tmp_path / words[0], *words)


def test_definitions_and_no_look_at_all_are_an_arms_own(tmp_path: Path) -> None:
    unseen = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    mine = {"steps": {"one": STEP | unseen}}
    assert set(check(tmp_path, zero_shot_definitions={}, mine=mine)) == {
        "direct", "rbft", "zero_shot_definitions", "mine",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learning_rte", [1e-3], "learning_rte"),
        ("per_device_train_batch_size", [4, 8], "trials has 'per_device_train_batch_size', which must be the same"),
        ("num_train_epochs", [1, 2], "trials has 'num_train_epochs', which must be the same"),
        ("eval_steps", [0.5, 0.1], "trials has 'eval_steps', which must be the same"),
        ("seed", [1, 2], "trials has 'seed', which must be the same"),
        ("num_frames", [4, 8], "trials has 'num_frames', which must be the same"),
        ("load_in_4bit", ["true"], "trials has 'load_in_4bit', which must be the same"),
        ("init", ["base"], "trials has 'init', which the comparison and its arms set themselves"),
        ("setup", ["setup.yaml"], "trials has 'setup', which the comparison and its arms set themselves"),
        ("output_dir", ["a", "b"], "trials has 'output_dir', which the comparison and its arms set themselves"),
        ("learning-rate", [1e-3], "trials: unknown key 'learning-rate'; did you mean 'learning_rate'"),
        ("learning_rate", [1e-3, "1e-3"], "trials has 0.001 twice among the values of 'learning_rate'"),
        ("train_parts", [["llm"], ["llm"]], "trials has \\['llm'\\] twice among the values of 'train_parts'"),
    ],
)
def test_trials_that_are_not_fair(tmp_path: Path, key: str, value: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, "--trials", f"{{{key}: {value}}}")


def test_trials_of_what_a_step_sets_itself(tmp_path: Path) -> None:
    mine = {"steps": {"one": STEP | {"learning_rate": 1.0e-3}}}
    with pytest.raises(UserError, match="trials has 'learning_rate', which step 'one' of arm 'mine' sets itself"):
        check(tmp_path / "own", "--trials", "{learning_rate: [1.0e-3]}", mine=mine)
    like = {"steps": {"one": STEP | {"steps_of": "mine"}}}  # what it takes its steps from is tried too
    with pytest.raises(UserError, match="trials has 'learning_rate', which step 'one' of arm 'mine' sets itself"):
        check(tmp_path / "like", "--trials", "{learning_rate: [1.0e-3]}", "--arms", "[direct, rbft, like]",
              mine=mine, like=like)  # fmt: skip


def test_an_arm_that_trains_with_other_rates_is_told(tmp_path: Path) -> None:
    mine = {"steps": {"one": STEP | {"weight_decay": 0.1, "class_balance": "sampler", "train_parts": ["llm"]}}}
    said = (
        "arm 'mine' does not train as direct SFT does: 'weight_decay' is 0.1 in step 'one' and 0.0 there; "
        "'class_balance' is sampler in step 'one' and none there"
    )
    with pytest.warns(UserWarning, match="does not train as") as caught:
        check(tmp_path, mine=mine)
    assert [str(one.message) for one in caught if "does not train" in str(one.message)] == [said]


def test_the_docs_list_what_is_equal_and_what_is_told() -> None:
    page = (REPOSITORY / "docs/compare.md").read_text(encoding="utf-8")
    equal, told = page.partition("### What is equal")[2].partition("\n## ")[0].split("Everything else")
    same = {*fairness.SAME_CLIPS, *fairness.SAME_BASE, *fairness.MATCHED, *fairness.LOOKS, *fairness.DRAWN}
    assert [key for key in sorted(same) if f"`{key}`" not in equal] == []
    assert [key for key in fairness.TOLD if f"`{key}`" not in told] == []
    assert "`rbft` and `direct` must stand there" in page


def test_trials_need_a_last_stage_that_looks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trials: arm 'star' has no single last stage"):
        check(tmp_path / "star", "--trials", "{learning_rate: [1.0e-3]}", star={})
    with pytest.raises(UserError, match="arm 'rationale_only' does not look at the validation clips"):
        check(tmp_path / "only", "--trials", "{learning_rate: [1.0e-3]}", rationale_only={})
    assert check(tmp_path / "right", "--trials", "{train_parts: [[llm], [llm, merger, vision]]}", rbft={})


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        ("star_pairs", {"per_device_train_batch_size": 4}, "'per_device_train_batch_size' is 4 in .*star_pairs.yaml"),
        ("star_pairs", {"lora_r": 4}, "'lora_r' is 4 in .*star_pairs.yaml"),
        ("star_pairs", {"dataloader_drop_last": False}, "'dataloader_drop_last' is False in .*star_pairs.yaml"),
    ],
)
def test_video_star_trains_as_the_others_do(tmp_path: Path, recipe: str, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, star={}, recipe={recipe: change})
