"""Files of arms: every shipped one passes the comparison's checks, and mistakes are told in one sentence."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import compare
from rbft_trl.arms import ROLES, read_arms
from rbft_trl.compare_config import CompareArguments
from rbft_trl.compared import settings_of, treatments
from rbft_trl.configs import ModelArguments
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.recipe import parse_recipe
from tests.helpers import REPOSITORY

SHIPPED = sorted({path.stem for path in (REPOSITORY / "recipes/arms").glob("*.yaml")})


@pytest.mark.parametrize("recipe", ["recipes/compare.yaml", "recipes/toy/compare.yaml"])
def test_every_shipped_arm_passes_the_checks(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = ["--arms", f"[{', '.join(SHIPPED)}]", "--oracle_texts", "outputs/toy/clips/attributes.jsonl"]
    words += ["--trials", "null"]  # some have no single last stage that looks at the validation clips
    (args,) = parse_recipe([recipe, *words], CompareArguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not train as direct SFT does")
        arms = compare.check(args)
    assert list(arms) == SHIPPED
    roles = {role: {name for name, arm in arms.items() if arm.role == role} for role in ROLES}
    assert roles["oracle"] == {"oracle", "oracle_guideline"}
    assert roles["control"] == {"other_hint", "permuted", "shuffled"}
    assert roles["reference"] == {"direct_flops", "direct_short"}


def test_the_docs_tell_what_the_arm_star_learns_from() -> None:
    page = (REPOSITORY / "docs/compare.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `star` |"))
    (step,) = read_arms(["star"], str(REPOSITORY / "recipes/arms"))["star"].steps
    assert step.settings == {"final_pairs": "kept"} and "`final_pairs: kept`" in row and "`stage2`" in row


def test_an_arm_whose_recipe_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    (args,) = parse_recipe(
        ["recipes/toy/compare.yaml", "--arms", "[direct, rbft, star]", "--star", "null"], CompareArguments
    )
    with pytest.raises(UserError, match="step 'star' needs the key 'star' of the comparison; name its recipe"):
        compare.check(args)


def test_before_a_run_the_arms_are_counted_that_are_corrected_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither references and controls, nor arms that others only take their steps from."""
    monkeypatch.chdir(REPOSITORY)
    names = "[probe, direct, direct_flops, rbft, joint, shuffled, oracle, other_hint]"
    (args,) = parse_recipe(["recipes/toy/compare.yaml", "--arms", names], CompareArguments)
    assert treatments(args, read_arms(args.arms, args.arms_folder)) == ["rbft", "joint"]
    (args,) = parse_recipe(["recipes/toy/compare.yaml", "--arms", "[direct, joint]"], CompareArguments)
    arms = read_arms(args.arms, args.arms_folder)
    assert "rbft" in arms and treatments(args, arms) == ["joint"]


def test_settings_are_those_of_the_arm_wherever_it_lies(tmp_path: Path) -> None:
    card = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml", with_data=False)

    def told(folder: str, base: str = "org/base", **changes: tuple[str, str]) -> dict[str, str]:
        shutil.copytree(REPOSITORY / "recipes", tmp_path / folder / "recipes")
        for name, (old, new) in changes.items():
            file = tmp_path / folder / f"recipes/toy/{name}.yaml"
            assert old in file.read_text()
            file.write_text(file.read_text().replace(old, new))
        words = ["--arms", "[zero_shot, direct, rbft, oracle, star]", "--oracle_texts", str(truth)]
        (args,) = parse_recipe([str(tmp_path / folder / "recipes/toy/compare.yaml"), *words], CompareArguments)
        return settings_of(args, ModelArguments(base), card)

    truth = tmp_path / "truth.jsonl"
    truth.write_text("true")
    first = told("first")
    assert list(first) == ["", "zero_shot", "direct", "rbft", "oracle", "star"] and len(set(first.values())) == 6
    assert told("moved", direct=("output_dir: outputs", "output_dir: elsewhere")) == first

    def changed(other: dict[str, str]) -> set[str]:
        return {name for name in first if first[name] != other[name]}

    assert changed(told("direct", direct=("max_steps: 408", "max_steps: 409"))) == {"direct"}
    assert changed(told("stage2", stage2=("max_steps: 192", "max_steps: 193"))) == {
        "direct",
        "rbft",
        "oracle",
        "star",
    }
    assert changed(told("pairs", star_pairs=("num_train_epochs: 20", "num_train_epochs: 21"))) == {"star"}
    assert changed(told("setup", setup=("lora_r: 16", "lora_r: 8"))) == set(first) - {"zero_shot"}
    assert changed(told("base", "org/other")) == {""}
    truth.write_text("other")
    assert changed(told("truth")) == {"oracle"}


def test_settings_hold_how_many_processes_share_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    card = TaskCard.from_yaml("recipes/tasks/toy.yaml", with_data=False)

    def told(*words: str) -> dict[str, str]:
        argv = ["recipes/toy/compare.yaml", "--arms", "[zero_shot, direct, rbft]", *words]
        return settings_of(*parse_recipe(argv, CompareArguments), ModelArguments("org/base"), card)

    def launched(**changes: Any) -> dict[str, str]:
        lines = yaml.safe_load(Path("accelerate_configs/multi_node.yaml").read_text()) | changes
        (tmp_path / "launch.yaml").write_text(yaml.safe_dump(lines))
        return told("--launch", str(tmp_path / "launch.yaml"))

    alone, many = told(), launched()
    assert {name for name in alone if alone[name] != many[name]} == {"direct", "rbft"}
    fewer = launched(num_processes=8)
    assert {name for name in alone if fewer[name] != many[name]} == {"direct", "rbft"}
    assert launched(main_process_ip="10.0.0.1", machine_rank=1) == many


ARM = {"about": "x", "steps": {"one": {"recipe": "direct"}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"about": None}, "'about' is missing"),
        ({"abuot": "x"}, "abuot"),
        ({"role": "orakel"}, "'role' is 'orakel' but must be one of oracle, control, reference; leave it out"),
        ({"role": True}, "'role' is True but must be"),
        ({"control": True}, "control"),
        ({"steps": {"one": {}}}, "needs either 'recipe' or 'texts'"),
        ({"steps": {"One": {"recipe": "direct"}}}, "needs a name of small letters"),
        ({"steps": {"eval": {"recipe": "direct"}}}, "does not begin with eval"),
        ({"steps": {"one": {"recipe": "stage3"}}}, "has recipe 'stage3'; use one of rationales, stage1"),
        ({"steps": {"one": {"recipe": "direct", "steps_of": "rbft", "max_steps": 3}}}, "without max_steps"),
        ({"steps": {"one": {"recipe": "stage2", "init": "<two>"}}}, "has no step 'two'"),
        ({"steps": {"one": {"recipe": "stage2", "init": "<rbft/stage9>"}}}, "arm 'rbft' has no step 'stage9'"),
        (
            {"steps": {"one": {"recipe": "stage2", "init": "<two>"}, "two": {"recipe": "stage1"}}},
            "step 'one' refers to 'two', which comes later",
        ),
        ({"steps": {"one": {"recipe": "direct", "steps_of": "mine"}}}, "'one' takes its steps from its own arm"),
        ({"steps": {"one": {"recipe": "stage2", "init": "<other/one>"}}}, "arms refer to each other in a circle"),
        (
            {"steps": {"one": {"recipe": "direct", "steps_share": 0.5}}},
            "'steps_share' of step 'one' is 0.5 but must be",
        ),
        ({"steps": {"one": {"texts": "oracle", "entry": "sft"}}}, "takes no 'entry'"),
        ({"steps": {"one": {"texts": "oracle", "flops_of": "rbft"}}}, "takes no 'flops_of'"),
        ({"steps": {"one": {"recipe": "direct", "flops_of": 3}}}, "'flops_of' of step 'one' is 3 but must be an arm"),
        ({"steps": {"one": {"recipe": "direct", "flops_of": "rbft", "steps_of": "rbft"}}}, "can only match one"),
        ({"steps": {"one": {"recipe": "direct", "flops_of": "rbft/stage9"}}}, "arm 'rbft' has no step 'stage9'"),
    ],
)
def test_mistakes_in_an_arm(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    for name in ("rbft", "direct"):
        (tmp_path / f"{name}.yaml").write_text((REPOSITORY / f"recipes/arms/{name}.yaml").read_text())
    circle = {"about": "y", "steps": {"one": {"recipe": "stage2", "init": "<mine/one>"}}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(circle))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(ARM | change))
    with pytest.raises(UserError, match=message):
        read_arms(["mine", "direct"], str(tmp_path))
