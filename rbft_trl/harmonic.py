"""Base-to-novel: the harmonic mean of the accuracies on classes that were trained on and on classes that were not.

Input: folders of rbft_trl/eval.py, one per draw, on base and on novel classes. Output: one line, and a JSON file.
Command: python rbft_trl/harmonic.py --base outputs/run/base --novel outputs/run/novel
"""

import argparse
from pathlib import Path
from typing import Any

from rbft_trl.data.jsonl import first_difference, read_json, write_json
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.novel import base_to_novel
from rbft_trl.evidence.outcomes import read_predictions

SAME = ("base", "precision", "frames", "definitions", "options", "checkpoint")


def main(argv: list[str]) -> dict[str, Any]:
    """Reads the evaluations; returns what is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", nargs="+", required=True, help="evaluations on base classes, one per draw")
    parser.add_argument("--novel", nargs="+", required=True, help="of the same checkpoints, on novel classes")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if len(args.base) != len(args.novel):
        raise UserError(
            f"--base names {len(args.base)} evaluations and --novel {len(args.novel)}; name one of each per draw"
        )
    for base, novel in zip(args.base, args.novel, strict=True):
        check_pair(base, novel)
    base, novel = (
        [sorted(read_predictions(folder), key=lambda p: p["id"]) for folder in folders]
        for folders in (args.base, args.novel)
    )
    for folders, draws in ((args.base, base), (args.novel, novel)):
        if other := [f for f, d in zip(folders, draws, strict=True) if clips(d) != clips(draws[0])]:
            raise UserError(
                f"'{other[0]}' and '{folders[0]}' evaluated other clips; the draws must share one test split"
            )
    found = base_to_novel(base, novel)
    low, high = found["interval"]
    print(
        f"base {found['base']:.3f}, novel {found['novel']:.3f}, harmonic mean {found['harmonic_mean']:.3f} "
        f"(95 % interval {low:.3f}-{high:.3f}, covers {found['covers']}), {len(base)} draws"
    )
    if args.output:
        write_json(args.output, found | {"evaluations": {"base": args.base, "novel": args.novel}})
    return found


def check_pair(base: str, novel: str) -> None:
    """Two evaluations of one checkpoint, on classes of which none is in both.

    Raises:
        UserError: naming what differs, or the class that is in both.
    """
    first, second = (read_json(Path(folder) / "metrics.json") for folder in (base, novel))
    for folder, metrics in ((base, first), (novel, second)):
        if "confusion" not in metrics:
            raise UserError(f"'{folder}' is no evaluation of classes; name one that rbft_trl/eval.py wrote")
    made, wanted = (metrics.get("settings") or {} for metrics in (first, second))
    if key := first_difference(made, wanted, among=SAME):
        raise UserError(
            f"'{base}' was evaluated with {key} = {made.get(key)} and '{novel}' with {wanted.get(key)}; evaluate one "
            "checkpoint with one recipe on both"
        )
    if both := [name for name in first["confusion"]["labels"] if name in second["confusion"]["labels"]]:
        raise UserError(f"'{base}' and '{novel}' both have the class '{both[0]}'; base and novel classes share none")


def clips(draw: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What was evaluated: id, label and group of each clip."""
    return [(p["id"], p["label"], p["group"]) for p in draw]


if __name__ == "__main__":
    run_entry(main)
