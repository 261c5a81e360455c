"""How many rationales the student of `rebuild: words` needs: what is kept per class, by margin and texts per class.

Input: rationales.jsonl, one per draw. Output: one line per margin; with the truth of the pool (attributes.jsonl of
toy/clips.py) also for N texts per class of the pool, which get their true label as final line.
Command: python benchmarks/student.py outputs/toy/tuning/draw*/rbft/rationales.jsonl [--truth FILE]
"""

import argparse
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from rbft_trl.data.jsonl import numbered_jsonl
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.support import Limits
from rbft_trl.evidence.verify import check_rationales, kept_share
from rbft_trl.texts import read_truth

REPOSITORY = Path(__file__).parents[1]
MARGINS, SIZES = (0.0, 0.25, 0.5, 1.0), (16, 32, 64, 100)
Sample = dict[str, Any]


def main(argv: list[str]) -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="rationales.jsonl, one per draw")
    parser.add_argument("--card", default=str(REPOSITORY / "recipes/tasks/toy.yaml"), help="task card")
    parser.add_argument("--truth", help="rows with the id and true label of every clip")
    args = parser.parse_args(argv)
    card = TaskCard.from_yaml(args.card, with_data=False)
    draws = [texts_of(file, card) for file in args.files]
    report("labelled", [[s for s in draw if s["label"] is not None] for draw in draws], card)
    if args.truth:
        truth = {clip: row.get("label") for clip, row in read_truth(args.truth).items()}
        pool = [sample["id"] for draw in draws for sample in draw if sample["label"] is None]
        if lacking := [clip for clip in pool if truth.get(clip) not in card.names]:
            raise UserError(f"{args.truth} has no class of {card.path} for clip '{lacking[0]}'; name that of its pool")
        for size in SIZES:
            texts = [with_truth(draw, truth, card, size=size, seed=seed) for seed, draw in enumerate(draws)]
            report(f"pool, {size} per class", texts, card)


def texts_of(file: Path, card: TaskCard) -> list[Sample]:
    """The rows of rationales.jsonl.

    Raises:
        UserError: naming the first line that holds no rationale of a class of the card, or of the pool.
    """
    lines = numbered_jsonl(file, by_user=True)
    for number, row in lines:
        if not row.keys() >= {"id", "label", "text"} or row["label"] not in (None, *card.names):
            raise UserError(
                f"{file}:{number}: this is no rationale of a class of {card.path}; name rationales of this --card"
            )
    return [row for _, row in lines]


def with_truth(draw: list[Sample], truth: dict[str, str], card: TaskCard, *, size: int, seed: int) -> list[Sample]:
    """`size` texts per class of the clips without a label, each with the true label as shown and as final line."""
    of_class: dict[str, list[Sample]] = defaultdict(list)
    for sample in random.Random(seed).sample(draw, len(draw)):
        if sample["label"] is None and len(of_class[label := truth[sample["id"]]]) < size:
            text = f"{card.without_final_line(sample['text'])}\n{card.final_line(label)}"
            of_class[label].append(sample | {"label": label, "shown": True, "text": text})
    return [sample for own in of_class.values() for sample in own]


def report(name: str, draws: list[list[Sample]], card: TaskCard) -> None:
    """Per margin: texts that pass the other checks, kept ones, and the fewest that a class has, each by draw."""
    draws = [[s for s in check_rationales(draw, card, mode="all") if s["verdict"] == "kept"] for draw in draws]
    for margin in MARGINS:
        limits = Limits("words", margin)
        shares = [kept_share(check_rationales(draw, card, mode="all", limits=limits), card) for draw in draws]
        total, kept = ([share["overall"][key] for share in shares] for key in ("total", "kept"))
        fewest = [min(share[label]["kept"] for label in card.names) for share in shares]
        print(f"{name}, margin {margin:g}: of {total} texts {kept} are kept, of a class at least {fewest}")


if __name__ == "__main__":
    run_entry(main)
