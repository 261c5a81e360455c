"""From which stages a checkpoint comes: the settings and fingerprints of its parents, and the rationales of stage 1.

Input: records and the summary of stage 0. Output: what rbft.json and the card tell, also when the folders are gone.
"""

from pathlib import Path
from typing import Any

from rbft_trl.data.jsonl import read_json

TOLD = ("weights", "target", "steps", "presentations", "rationales", "merged_check")
SETTINGS = ("learning_rate", "num_train_epochs", "seed", "label_in_prompt", "class_balance")


def lineage(parent: dict[str, Any] | None, init: str) -> list[dict[str, Any]]:
    """The parents of a stage, the nearest first.

    Args:
        parent (`dict`, *optional*): rbft.json of the stage that it starts from.
        init (`str`): Where that was: a folder, or `user/name@commit`.
    """
    if parent is None:
        return []
    told = {key: parent[key] for key in TOLD if parent.get(key) is not None}
    told |= {"settings": {key: parent["recipe"].get(key) for key in SETTINGS}, "adapters": parent["adapters"]}
    told |= {"hub": None if Path(init).exists() else init, "hub_model_id": parent["recipe"].get("hub_model_id")}
    return [told, *parent.get("parents", [])]


def rationale_facts(file: str | None) -> dict[str, Any] | None:
    """How the rationales of a stage were written and how many passed the checks, if stage 0 left its summary."""
    summary = Path(file).with_suffix(".summary.json") if file else None
    if summary is None or not summary.is_file():
        return None
    made = read_json(summary)
    if not {"stage0", "checks", "kept"} <= made.keys() or not {"precision", "server"} & made.keys():
        return None
    facts = {"options": made["stage0"]} | {key: made[key] for key in ("checks", "kept")}
    facts |= {"checkpoint": made["checkpoint"]} if "checkpoint" in made else {}
    return facts | ({"served": True} if "server" in made else {"precision": made["precision"]})
