"""Small builders that several test files of the model wing share."""

from pathlib import Path
from typing import Any

import yaml

from rbft_trl.configs import ModelArguments
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import FrameSettings
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.loading import load_processor

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMES = FrameSettings(num_frames=8, min_pixels=56 * 56, max_pixels=56 * 56)


def toy_recipe(name: str, folder: Path, card: Path, base: Path, **changes: Any) -> str:
    """A copy of recipes/toy/`name`.yaml for the small test data set, with `changes`; returns its path.

    It names the toy's setup; `key=...` takes a key out, of the setup too (then in a copy of it).
    """
    recipe = yaml.safe_load((REPOSITORY / f"recipes/toy/{name}.yaml").read_text(encoding="utf-8"))
    number = len(list(folder.glob("*.yaml")))
    setup = REPOSITORY / "recipes/toy" / recipe["setup"]
    shared = yaml.safe_load(setup.read_text(encoding="utf-8"))
    if out := {key for key, value in changes.items() if value is ...} & shared.keys():
        setup = folder / "setups" / f"{name}_{number}.yaml"
        setup.parent.mkdir(exist_ok=True)
        paths = {"task": str(card), "model_name_or_path": str(base)}
        setup.write_text(yaml.safe_dump({k: v for k, v in (shared | paths).items() if k not in out}))
    if "train_parts" in recipe:  # the toy recipes leave the tower as it is at last; tests train every part
        recipe["train_parts"] = ["llm", "merger", "vision"]
    recipe |= {"setup": str(setup), "task": str(card), "model_name_or_path": str(base), "shots": 2}
    recipe |= {k: str(v) if isinstance(v, Path) else v for k, v in changes.items()}
    path = folder / f"{name}_{number}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not ...}), encoding="utf-8")
    return str(path)


def make_collator(card: Path, root: Path, base: Path, **options: Any) -> ClipCollator:
    """A collator with the toy domain's frames."""
    options = {"definitions": False} | options
    return ClipCollator(load_processor(str(base)), TaskCard.from_yaml(card), root, FRAMES, **options)


def base_arguments(base: Path, **changes: Any) -> ModelArguments:
    """The base in fp32 on a CPU."""
    return ModelArguments(**({"model_name_or_path": str(base), "dtype": "float32"} | changes))
