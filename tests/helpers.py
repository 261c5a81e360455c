"""Small builders that several test files of the model wing share."""

import shutil
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


def card_with(count: int, split: str, toy_set: tuple[Path, Path], folder: Path) -> Path:
    """A card of a data set with exactly `count` clips in `split`: copies of its clips under other ids and files."""
    root = folder / "clips"
    shutil.copytree(toy_set[1], root)
    lines = (root / "clips.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    labelled = [row for row in rows if row[3] == split and row[2]]
    of_class = [[row for row in labelled if row[2] == name] for name in dict.fromkeys(row[2] for row in labelled)]
    sources = [row for one_of_each in zip(*of_class, strict=True) for row in one_of_each]
    kept = [row for row in rows if row[3] != split]
    for i in range(count):
        source = sources[i % len(sources)]
        video = f"clips/copy{i}.mp4"
        shutil.copy(root / source[1], root / video)
        kept.append([f"copy{i:03d}", video, source[2], split, f"copy{i}"])
    (root / "clips.csv").write_text("\n".join([lines[0], *map(",".join, kept)]) + "\n")
    raw = yaml.safe_load(toy_set[0].read_text(encoding="utf-8"))
    raw["data"]["root"] = str(root)
    (folder / "toy.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return folder / "toy.yaml"
