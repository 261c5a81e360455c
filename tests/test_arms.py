"""Files of arms: every shipped one passes the comparison's checks, and mistakes are told in one sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import compare
from rbft_trl.arms import read_arms
from rbft_trl.compare_config import CompareArguments
from rbft_trl.errors import UserError
from rbft_trl.recipe import parse_recipe
from tests.helpers import REPOSITORY

SHIPPED = sorted({path.stem for path in (REPOSITORY / "recipes/arms").glob("*.yaml")})


@pytest.mark.parametrize("recipe", ["recipes/compare.yaml", "recipes/toy/compare.yaml"])
def test_every_shipped_arm_passes_the_checks(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = ["--arms", f"[{', '.join(SHIPPED)}]", "--oracle_texts", "outputs/toy/clips/attributes.jsonl"]
    (args,) = parse_recipe([recipe, *words], CompareArguments)
    arms = compare.check(args)
    assert list(arms) == SHIPPED
    controls = {name for name, arm in arms.items() if arm.control}
    assert controls == {"oracle", "oracle_guideline", "other_hint", "permuted", "shuffled"}


def test_an_arm_whose_recipe_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    (args,) = parse_recipe(
        ["recipes/toy/compare.yaml", "--arms", "[direct, rbft, star]", "--star", "null"], CompareArguments
    )
    with pytest.raises(UserError, match="step 'star' needs the key 'star' of the comparison; name its recipe"):
        compare.check(args)


ARM = {"about": "x", "steps": {"one": {"recipe": "direct"}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"about": None}, "'about' is missing"),
        ({"abuot": "x"}, "abuot"),
        ({"control": "yes"}, "'control' is 'yes' but must be true or false"),
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
