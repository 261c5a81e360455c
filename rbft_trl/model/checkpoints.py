"""Output folders and checkpoints: never overwrite, resume from the newest whole one, tell weights apart."""

import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState

from rbft_trl.data.jsonl import first_difference, make_folder, read_json, write_json
from rbft_trl.errors import UserError
from rbft_trl.model.provenance import RECORD_FILE
from rbft_trl.model.whole import clean, is_whole
from rbft_trl.training_config import TrainingConfig

RECIPE_FILE = "recipe.json"
MAY_DIFFER = {"resume_from_checkpoint", "run_name", "report_to", "logging_steps", "disable_tqdm", "local_rank"}
MAY_DIFFER |= {"push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_license", "hub_base_id"}
MAY_DIFFER |= {"hub_base_revision", "global_batch"}


def prepare_output(training: TrainingConfig, recipe: dict[str, Any]) -> tuple[str | None, bool]:
    """Decides whether a run starts, resumes or is already done, and writes its resolved recipe.

    Returns:
        `tuple`: the checkpoint to resume from (or None), and whether the run is complete.

    Raises:
        UserError: for a folder with something in it and no wish to resume, or with another recipe in it.
    """
    folder, wish = Path(training.output_dir), training.resume_from_checkpoint
    training.resume_from_checkpoint = None
    if wish in (None, "false", "False"):
        if _holds_something(folder):
            raise UserError(
                f"output_dir '{folder}' is not empty; choose another, delete it, or go on with "
                "--resume_from_checkpoint true"
            )
        _write_recipe(folder, recipe)
        return None, False
    begun = (folder / RECIPE_FILE).is_file()
    if not begun and _holds_something(folder):
        raise UserError(
            f"output_dir '{folder}' is not empty and holds no {RECIPE_FILE} of a run to resume; choose another folder"
        )
    _refuse_other_recipe(folder, recipe)
    if (folder / RECORD_FILE).is_file():
        print(f"'{folder}' is complete; nothing to resume")
        return None, True
    _write_recipe(folder, recipe)
    if wish in ("true", "True"):
        checkpoint = newest_whole_checkpoint(folder)
        if begun:
            print(
                f"resuming from '{checkpoint}'" if checkpoint else f"'{folder}' has no whole checkpoint: from step 0"
            )
        return checkpoint, False
    inside = Path(wish).resolve().parent == folder.resolve() and Path(wish).name.startswith("checkpoint-")
    if not inside or not Path(wish).is_dir() or not is_whole(Path(wish)):
        raise UserError(
            f"resume_from_checkpoint '{wish}' is no whole checkpoint-N of '{folder}'; write true to take the newest"
        )
    return wish, False


def _holds_something(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        return True
    return folder.exists() and any(file.suffix != ".tmp" for file in folder.iterdir())  # of a write that was killed


def newest_whole_checkpoint(folder: Path) -> str | None:
    """The newest `checkpoint-N` of which nothing is missing; one that is broken is named, and put aside."""
    numbered = [(int(p.name.split("-")[1]), p) for p in folder.glob("checkpoint-*") if p.name.split("-")[1].isdigit()]
    found, broken = None, []
    for _, checkpoint in sorted(numbered, reverse=True):
        if is_whole(checkpoint):
            found = str(checkpoint)
            break
        broken.append(checkpoint)
    PartialState().wait_for_everyone()  # until every process has looked
    for checkpoint in broken if PartialState().is_main_process else []:
        aside = checkpoint.with_name(f"broken-{checkpoint.name}")  # else it would count as one of save_total_limit
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        print(f"'{checkpoint}' is broken: put aside as '{aside.name}'; trying the one before")
    return found


def _write_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    PartialState().wait_for_everyone()  # until every process has looked at the folder
    make_folder(folder)
    if PartialState().is_main_process:
        clean(folder)
        write_json(folder / RECIPE_FILE, recipe)
    PartialState().wait_for_everyone()


def _refuse_other_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    if not (folder / RECIPE_FILE).is_file():
        return
    begun = read_json(folder / RECIPE_FILE)
    if key := first_difference(begun, recipe, among=sorted((recipe.keys() | begun.keys()) - MAY_DIFFER)):
        raise UserError(
            f"'{folder}' was begun with {key} = {begun.get(key)!r}, this recipe has {recipe.get(key)!r}; "
            "resume with the same recipe, or choose another output_dir"
        )
