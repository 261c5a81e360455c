"""What steps of arms are made from, and what they cost together.

Input: finished steps. Output: steps, clips shown, tokens, FLOPs and seconds of an arm on one draw.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbft_trl.data.jsonl import read_json, write_json
from rbft_trl.start import Task

COSTS = ("steps", "presentations", "tokens", "flops", "seconds")


@dataclass(frozen=True)
class Place:
    """A draw of labelled clips, and how many there are per class (None: as the recipes say)."""

    draw: int
    shots: int | None

    def folder(self, output: str | Path) -> Path:
        """Where its cells are."""
        return Path(output) / (f"shots{self.shots}" if self.shots else "") / f"draw{self.draw}"


@dataclass
class Done:
    """A finished step.

    Args:
        path (`Path`): Its folder or file.
        cost (`dict`): steps, presentations (clips shown), tokens, flops (an estimate), seconds.
        record (`dict`): Of a trained stage: rbft.json; else empty.
        needs (`dict`): What it was made from, by path.
    """

    path: Path
    cost: dict[str, float]
    record: dict[str, Any] = field(default_factory=dict)
    needs: dict[Path, "Done"] = field(default_factory=dict)


def closure(needs: dict[Path, Done]) -> dict[Path, Done]:
    """Steps and all that they were made from, each once, the earliest first."""
    found: dict[Path, Done] = {}
    for path, done in needs.items():
        found |= closure(done.needs)
        found[path] = done
    return found


def tokens_written(samples: list[dict[str, Any]], task: Task) -> int:
    """Tokens of stage 0: of every text, and of clip and plain prompt once per reading of a clip."""
    collator, rows = task.collator(), {row["id"]: row | {"target": "rationale", "text": ""} for row in task.rows}
    readings = sorted({(sample["id"], bool(sample.get("shown"))) for sample in samples})
    read = collator.count_tokens([rows[i] for i, _ in readings], [task.manifest[i] for i, _ in readings])
    return sum(read) + sum(len(collator.encode(sample["text"])) for sample in samples)


def first_seconds(path: Path, spent: float) -> float:
    """The time of the first, complete run of a step that keeps no record of its own time."""
    file = path.with_suffix(".seconds.json")
    if not file.is_file():
        write_json(file, {"seconds": round(spent, 2)})
    return read_json(file)["seconds"]


def cost_of(last: Done | None) -> dict[str, float | None]:
    """What an arm cost in all on one draw; null for what was not trained."""
    if last is None:
        return dict.fromkeys(COSTS)
    steps = closure({last.path: last}).values()
    cost: dict[str, float | None] = {key: sum(done.cost.get(key) or 0 for done in steps) for key in COSTS}
    return cost | {"flops": operations(steps)}


def operations(steps: Iterable[Done]) -> float | None:
    """FLOPs of steps together, stage 0 included; None with a stage on ZeRO-3, where they cannot be counted."""
    steps = list(steps)
    if any(done.cost.get("steps") and done.cost.get("flops") is None for done in steps):
        return None
    flops = sum(done.cost.get("flops") or 0 for done in steps)
    trained = sum(done.cost["tokens"] for done in steps if done.cost.get("flops"))
    written = sum(done.cost.get("tokens", 0) for done in steps if not done.cost.get("flops"))
    return flops * (1 + written / trained / 3) if trained else flops  # a forward alone is a third of a training step
