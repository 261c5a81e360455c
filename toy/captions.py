"""What the base, or a trained stage, says of a toy domain's clips: per attribute, the share that is true.

Input: the clips of a domain and their attributes.jsonl. Output: a table; as a function, figures with intervals.
Command: python toy/captions.py --domain fine --checkpoint outputs/toy/stage1     (without a checkpoint: the base)
"""

import argparse
from pathlib import Path

from rbft_trl.configs import DataArguments, ModelArguments
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.errors import run_entry
from rbft_trl.model.inference import prefill, write
from rbft_trl.model.loading import load_for_inference
from rbft_trl.start import Row, Task, open_task
from toy.domains import DOMAINS
from toy.measure import Share, parse_caption, share
from toy.scenes import ATTRIBUTES, FRAMES

REPOSITORY = Path(__file__).resolve().parents[1]


def open_toy(task: str, base: str) -> tuple[Task, ModelArguments, dict[str, Row]]:
    """The clips of a toy card, the base by its folder (from the root of the repository), and the truth by id."""
    weights = ModelArguments(model_name_or_path=str(REPOSITORY / base), dtype="float32")
    opened = open_task(DataArguments(task=task, definitions=False, **FRAMES), weights)
    return opened, weights, {row["id"]: row for row in read_jsonl(opened.root / "attributes.jsonl")}


def true_shares(
    task: str,
    *,
    split: str = "validation",
    checkpoint: str | None = None,
    base: str = "toy/base",
    batch_size: int = 64,
) -> dict[str, Share]:
    """Per attribute and over all, the share of greedy rationales that name the true value.

    The prompt is that of stages 0 and 1, without a hint.

    Args:
        task (`str`): A task card whose data root holds an attributes.jsonl.
        split (`str`, *optional*, defaults to `"validation"`): Whose labelled clips are described.
        checkpoint (`str`, *optional*): A trained stage; the base as it is by default.
        base (`str`, *optional*, defaults to `"toy/base"`): The base, from the root of the repository.
        batch_size (`int`, *optional*, defaults to 64): Clips at once.
    """
    opened, weights, truth = open_toy(task, base)
    model = load_for_inference(weights, checkpoint, device="cpu")
    collator, rows = opened.collator(), opened.of_split(split)
    right: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        read = prefill(model, collator.prompts(some, [collator.rationale_prompt(row) for row in some]))
        for row, text in zip(some, write(model, read, collator, max_new_tokens=40)[0], strict=True):
            said = parse_caption(opened.card.without_final_line(text))
            for name in ATTRIBUTES:
                right[name].append(said[name] == truth[row["id"]][name])
    return {name: share(found) for name, found in right.items()} | {
        "all": share([r for found in right.values() for r in found])
    }


def main(argv: list[str]) -> None:
    """Prints one line per attribute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domain", choices=list(DOMAINS), default="far")
    parser.add_argument("--task", help="a task card of another folder of the domain's clips")
    parser.add_argument("--checkpoint", help="folder of a trained stage")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="validation")
    args = parser.parse_args(argv)
    card = args.task or str(REPOSITORY / "recipes/tasks" / DOMAINS[args.domain].card)
    for name, found in true_shares(card, split=args.split, checkpoint=args.checkpoint).items():
        low, high = found["interval"]
        print(f"{name:<7} {100 * found['share']:5.1f} ({100 * low:.0f}-{100 * high:.0f}), n = {found['n']}")


if __name__ == "__main__":
    run_entry(main)
