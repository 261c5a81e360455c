"""What travels with a checkpoint: task card, frames, prompts, resolved recipe, parent and versions, in rbft.json.

Evaluation and stage 2 read it, so training and serving cannot disagree and a stage cannot start from the wrong parent.
"""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from rbft_trl.data.jsonl import first_difference, read_json, write_json
from rbft_trl.data.task import CARD_FILE, TaskCard
from rbft_trl.errors import UserError

RECORD_FILE = "rbft.json"
NEEDED = ("labels", "card", "base", "frames", "definitions", "target", "weights", "adapters", "trained_on", "recipe")
PACKAGES = ("rbft_trl", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "av")


def write_record(folder: str | Path, card: TaskCard, record: dict[str, Any]) -> None:
    """Writes rbft.json and the task card into a finished checkpoint's folder."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    card.save(folder)
    write_json(Path(folder) / RECORD_FILE, record | {"card": card.fingerprint(), "versions": versions})


def read_record(folder: str | Path) -> dict[str, Any]:
    """Reads rbft.json of a checkpoint, or of the run that a `checkpoint-N` folder belongs to (with its own weights).

    Raises:
        UserError: if the folder was not written by rbft_trl/sft.py, its training did not end, or its weights are not
            those that were trained.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"the checkpoint '{folder}' does not exist; train it with rbft_trl/sft.py, or correct the path"
        )
    for place in (folder, folder.parent if folder.name.startswith("checkpoint-") else folder):
        if (place / RECORD_FILE).is_file():
            return _checked(read_json(place / RECORD_FILE), folder, whole=place == folder)
    raise UserError(
        f"'{folder}' holds no {RECORD_FILE}, so it is no finished run of rbft_trl/sft.py; finish that run first"
    )


def _checked(record: dict[str, Any], folder: Path, *, whole: bool) -> dict[str, Any]:
    if missing := [key for key in NEEDED if key not in record]:
        raise UserError(f"'{folder / RECORD_FILE}' lacks '{missing[0]}'; train again")
    if record["adapters"]["use_peft"] and not (folder / "adapter_config.json").is_file():
        raise UserError(f"'{folder}' lacks adapter_config.json, so its LoRA cannot be loaded; copy the whole folder")
    weights = weights_fingerprint(folder)
    if whole and weights != record["weights"]:
        raise UserError(
            f"the weights in '{folder}' ({weights}) are not those that were trained ({record['weights']}); copy the "
            "whole folder again, or train again"
        )
    return record | {"weights": weights}


def weights_fingerprint(folder: str | Path) -> str:
    """Twelve hex digits over the trained weights in a folder."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:12]


def check_same(record: dict[str, Any], folder: str | Path, card: TaskCard, **wanted: Any) -> None:
    """Refuses a checkpoint that was made with another base, labels, prompts or frames than the recipe asks for.

    Args:
        record (`dict`): rbft.json of the checkpoint.
        folder (`Path`): The checkpoint, for the message.
        card (`TaskCard`): The card that the recipe names.
        wanted (`Any`): Keys of the record with the values of the recipe, e.g. `base=…, frames=…`.

    Raises:
        UserError: naming the key, both values and the way out.
    """
    if record["labels"] != card.names:
        raise UserError(
            f"the labels of '{folder}' are {record['labels']} but {card.path} has {card.names}; "
            f"use the card that it was trained with ({Path(folder) / CARD_FILE}) or train again"
        )
    if record["card"] != card.fingerprint():
        raise UserError(
            f"'{folder}' was trained with other prompts or definitions than {card.path} has; "
            f"compare it with {Path(folder) / CARD_FILE}, and train again if the change is meant"
        )
    if key := first_difference(record, wanted, among=wanted):
        raise UserError(
            f"'{folder}' was trained with {key} = {record.get(key)}, but this recipe has {wanted[key]}; "
            "make them equal or train again"
        )


def groups_of(rows: list[dict[str, Any]], split: str) -> list[str]:
    """The groups of a split, sorted; a record keeps them, so that no later split can turn them into test clips."""
    return sorted({row["group"] for row in rows if row["split"] == split})


def check_unseen(record: dict[str, Any], folder: str | Path, rows: list[dict[str, Any]], split: str) -> None:
    """Refuses clips of `split` whose group the checkpoint was trained on, or (for the test) selected by.

    A split made by seed is dealt anew when seed or clips change; a test would then hold training clips.

    Raises:
        UserError: naming a group and the way out.
    """
    seen = set(record["trained_on"]) | (set(record["selected_by"]) if split == "test" else set())
    if leaked := sorted(seen & set(groups_of(rows, split))):
        raise UserError(
            f"{len(leaked)} groups of the {split} split, e.g. '{leaked[0]}', were used to train '{folder}'; "
            "evaluate with the split that it was trained with, or train again"
        )
