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
    argv = [str(folder / "recipes/toy/compare.yaml"), "--arms", f"[{', '.join(names)}]", *trials, *words]
    return fairness.check(*parse_recipe(argv, CompareArguments))


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


PROBED = {"evaluate": {"method": "probe"}}
STEP = {"recipe": "stage2", "init": "base"}


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            {"probe": {"evaluate": {"method": "probe", "num_frames": 16}}},
            "'num_frames' is 16 in the evaluation",
        ),
        ({"probe": {"evaluate": {"split": "validation"}}}, "'split' is validation in the evaluation of arm 'probe'"),
        ({"direct": {"evaluate": {"label_score": "mean"}}}, "'label_score' is mean in the evaluation of arm 'direct'"),
        ({"direct": PROBED}, "has method probe, which looks at no trained model"),
        ({"mine": {"steps": {"one": STEP | {"seed": 3}}}}, "arm 'mine', step 'one': 'seed' is the same in all arms"),
        ({"mine": {"steps": {"one": STEP | {"draw": 7}}}}, "arm 'mine', step 'one': 'draw' is the same in all arms"),
        ({"mine": {"steps": {"one": STEP | {"eval_strategy": "epoch", "save_strategy": "epoch"}}}}, "the more often"),
        ({"mine": {"steps": {"one": STEP | {"eval_steps": 0.1, "save_steps": 0.1}}}}, "'eval_steps' is 0.1 in"),
    ],
)
def test_arms_that_are_not_fair(tmp_path: Path, arms: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, **arms)


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
    ],
)
def test_trials_that_are_not_fair(tmp_path: Path, key: str, value: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, "--trials", f"{{{key}: {value}}}")


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
