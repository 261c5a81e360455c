"""A setup: what every stage shares, written once: base, clips and frames, adapter, rates, batch and hardware.

Input: the file that a recipe names as `setup`. Output: its options, checked against those of every entry.
"""

from pathlib import Path
from typing import Any

from rbft_trl.errors import UserError
from rbft_trl.options import Option, checked, options_of
from rbft_trl.yaml_file import read_mapping

EXAMPLE = "name one beside the recipe, e.g. setup: setups/qlora_24gb.yaml (recipes/README.md lists them)"
# What makes a stage this stage: shared by all, it would overwrite results or train the wrong thing.
OF_ONE_STAGE = ("init", "target", "rationales", "label_in_prompt", "frames_may_differ", "output_dir", "output_file")
OF_ONE_STAGE += ("checkpoint", "split", "method", "calibrate", "resume_from_checkpoint", "run_name")


def read_setup(file: Path) -> dict[str, Any]:
    """The options of a setup; each entry takes those that it has, so a misspelt key is told by all of them alike.

    Raises:
        UserError: for a missing file, an unknown or renamed key, a wrong type, or a key of one stage.
    """
    from rbft_trl import configs  # here, since TRL takes a second that a bare task card need not wait
    from rbft_trl.rationale_config import RationaleArguments
    from rbft_trl.training_config import TrainingConfig

    raw = read_mapping(file, what="setup", example=EXAMPLE)
    if "setup" in raw:
        raise UserError(f"{file}: a setup names no other setup; write its lines here")
    for key in raw:
        if key in OF_ONE_STAGE:
            raise UserError(f"{file}: '{key}' belongs to one stage, and every stage reads this file; write it there")
    groups = [configs.DataArguments, configs.ModelArguments, configs.AdapterArguments, configs.StageArguments]
    groups += [RationaleArguments, configs.EvalArguments, TrainingConfig]
    return checked(raw, options_of(groups), file)


def check_no_setup(raw: dict[str, Any], overrides: dict[str, str], file: Path, known: dict[str, Option]) -> None:
    """Refuses a setup that is given as if it were a recipe: base and card stand there, and nothing of one stage.

    Raises:
        UserError: with the recipe to run it with.
    """
    if not {"model_name_or_path", "task"} <= raw.keys() or {*OF_ONE_STAGE, "setup"} & {*raw, *overrides}:
        return
    kind = "stage1" if "target" in known else "rationales" if "output_file" in known else "eval"
    places = (folder / f"{kind}.yaml" for folder in (file.parent, file.parent.parent))
    recipe = next((place for place in places if place.is_file()), f"recipes/{kind}.yaml")
    raise UserError(
        f"'{file}' is a setup, which says nothing of one stage, and no recipe; run one with it, e.g. {recipe} "
        f"--setup {file}"
    )
