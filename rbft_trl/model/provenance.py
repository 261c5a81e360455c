"""What travels with a checkpoint: task card, frames, prompts, resolved recipe, parent and versions, in rbft.json.

Evaluation and stage 2 read it, so training and serving cannot disagree and a stage cannot start from the wrong parent.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from rbft_trl.configs import ModelArguments
from rbft_trl.data.jsonl import first_difference, read_json, write_json
from rbft_trl.data.task import CARD_FILE, TaskCard, normalise
from rbft_trl.errors import UserError

RECORD_FILE = "rbft.json"
NEEDED = ("labels", "card", "base", "frames", "definitions", "target", "weights", "adapters", "recipe")
NEEDED += ("trained_on", "trained_on_files", "selected_by", "selected_by_files")
HASHED = "sha256:"
PACKAGES = ("rbft_trl", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "av")


def write_record(folder: str | Path, card: TaskCard, record: dict[str, Any]) -> None:
    """Writes rbft.json and the task card into a finished checkpoint's folder."""
    card.save(folder)
    write_json(Path(folder) / RECORD_FILE, whole_record(card, record))


def whole_record(card: TaskCard, record: dict[str, Any]) -> dict[str, Any]:
    """A record with the fingerprint of its card and the versions that made it."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return record | {"card": card.fingerprint(), "versions": versions}


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
    if not isinstance(record["adapters"], dict) or not isinstance(record["recipe"], dict):
        raise UserError(f"'{folder / RECORD_FILE}' is damaged: 'adapters' or 'recipe' is no mapping; train again")
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
    """Twelve hex digits over the trained weights in a folder, and over the rank, scale and targets of their LoRA."""
    digest = hashlib.sha256()
    if (config := Path(folder) / "adapter_config.json").is_file():
        kept = {k: v for k, v in read_json(config).items() if k not in ("base_model_name_or_path", "revision")}
        digest.update(json.dumps(kept, sort_keys=True).encode())
    for file in sorted(Path(folder).glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:12]


def order_targets(folder: str | Path) -> None:
    """Sorts the layers that an adapter's configuration lists: PEFT writes a set, in another order in every process,
    and the fingerprint of equal weights would differ."""
    if (file := Path(folder) / "adapter_config.json").is_file():
        config = read_json(file)
        if isinstance(config["target_modules"], list):
            write_json(file, config | {"target_modules": sorted(config["target_modules"])})


def begins_new_adapter(parent: dict[str, Any], use_peft: bool) -> bool:
    """Whether a stage puts a new LoRA on the full weights of its parent (merged, or fully fine-tuned)."""
    return use_peft and not parent["adapters"]["use_peft"]


def under_adapter(record: dict[str, Any], base: ModelArguments) -> ModelArguments:
    """The weights that a checkpoint's adapter belongs on: the base, or the full weights that it was begun on.

    Raises:
        UserError: if these are not where they were, or have changed.
    """
    on = record.get("adapter_on")
    if not on:
        return base
    if not Path(on["folder"]).is_dir() or weights_fingerprint(on["folder"]) != on["weights"]:
        raise UserError(
            f"the adapter was trained on the merged weights {on['weights']} in '{on['folder']}', which are not there "
            "any more; put them back, or merge the checkpoint where they are with rbft_trl/merge.py"
        )
    return dataclasses.replace(base, model_name_or_path=on["folder"], model_revision=None)


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
    _check_wanted(record, folder, wanted)


def check_other_labels(record: dict[str, Any], folder: str | Path, card: TaskCard, **wanted: Any) -> None:
    """As `check_same`, for a card of which the checkpoint has seen no label (base-to-novel): nothing else differs.

    Raises:
        UserError: if it has seen a label, or the question, role, aspects, prompts (but the checklist's) or a wanted
            key differ.
    """
    places = [place / CARD_FILE for place in (Path(folder), Path(folder).parent)]
    trained = TaskCard.from_yaml(next((place for place in places if place.is_file()), places[0]))
    seen = {normalise(name) for name in trained.names}
    if shared := [name for name in card.names if normalise(name) in seen]:
        raise UserError(
            f"unseen_labels is true but '{folder}' was trained on {len(shared)} labels of {card.path}, e.g. "
            f"'{shared[0]}'; name a card of which it has seen none, or leave unseen_labels out"
        )
    if what := trained.differs_beside_labels(card):
        raise UserError(
            f"'{folder}' was trained with another {what} than {card.path} has; only the labels may differ there"
        )
    _check_wanted(record, folder, wanted)


def _check_wanted(record: dict[str, Any], folder: str | Path, wanted: dict[str, Any]) -> None:
    if wanted.get("base") is not None and wanted["base"] == record.get("base_hub"):
        record = record | {"base": wanted["base"]}  # the same base under the name that it has on the Hub
    if key := first_difference(record, wanted, among=wanted):
        raise UserError(
            f"'{folder}' was trained with {key} = {record.get(key)}, but this recipe has {wanted[key]}; "
            "make them equal or train again"
        )


def hashed(group: str) -> str:
    """A group as a pushed record holds it: its name may be private (a camera, a person). Sixteen hex digits."""
    return group if group.startswith(HASHED) else HASHED + hashlib.sha256(group.encode()).hexdigest()[:16]


def groups_of(rows: list[dict[str, Any]], split: str) -> list[str]:
    """The groups of a split, sorted; a record keeps them, so that no later split can turn them into test clips."""
    return sorted({row["group"] for row in rows if row["split"] == split})


def files_of(rows: list[dict[str, Any]], manifest: dict[str, dict[str, Any]], split: str) -> list[str]:
    """Hashes of the files of a split, sorted: a clip stays the same clip when its group or id is renamed."""
    entries = (manifest[row["id"]] for row in rows if row["split"] == split)
    return sorted({entry["file"][:16] for entry in entries if entry["reason"] is None})


def check_unseen(
    record: dict[str, Any],
    folder: str | Path,
    rows: list[dict[str, Any]],
    manifest: dict[str, dict[str, Any]],
    split: str,
) -> None:
    """Refuses clips of `split` that the checkpoint has seen (see `leaked`).

    A split made by seed is dealt anew when seed or clips change; a test would then hold training clips.

    Raises:
        UserError: naming a group or counting the files, and the way out.
    """
    what, names = leaked(record, rows, manifest, split)
    if names:
        named = f", e.g. '{names[0]}'," if what == "groups" else ""
        raise UserError(
            f"{len(names)} {what} of the {split} split{named} were used to train '{folder}'; evaluate with the split "
            "that it was trained with, or train again"
        )


def leaked(
    record: dict[str, Any], rows: list[dict[str, Any]], manifest: dict[str, dict[str, Any]], split: str
) -> tuple[str, list[str]]:
    """What of `split` was trained on, or (of the test) selected by: `("groups", names)`, or else, by the contents of
    their files, `("files", hashes)`; empty if it is new."""
    for kind, own in (("", groups_of(rows, split)), ("_files", files_of(rows, manifest, split))):
        seen = set(record[f"trained_on{kind}"]) | (set(record[f"selected_by{kind}"]) if split == "test" else set())
        if names := [name for name in own if name in seen or (not kind and hashed(name) in seen)]:
            return "files" if kind else "groups", names
    return "files", []
