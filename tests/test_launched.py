"""A part of a driver under `accelerate launch`: what the entry found wrong is told as if it ran in this process."""

from pathlib import Path

import pytest

from rbft_trl import compare
from rbft_trl.errors import UserError
from tests.helpers import REPOSITORY, toy_recipe
from tests.test_protocols import QUICK, make_recipe


def test_a_launched_stage_0_that_keeps_nothing_leaves_its_arms_out(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    """accelerate passes no exit code on, so that the comparison ended with the first draw."""
    launch = REPOSITORY / "accelerate_configs/cpu.yaml"
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, launch=str(launch))
    strict = toy_recipe("rationales", tmp_path, toy_set[0], smoke_base, max_new_tokens=4, label_shown="blind")
    with pytest.raises(UserError, match=r"without arm 'rbft' there is nothing to compare: draw 0: class .* has no"):
        compare.main([str(recipe), "--rationales", strict])
