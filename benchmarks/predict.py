"""Where the time of a prediction goes: reading the clip, the vision tower, the language model, the label trie.

Output: clips/s, shares and peak memory, for the toy base and its clips (python toy/clips.py makes them).
Command: python benchmarks/predict.py [--model FOLDER] [--clips 256]
"""

import argparse
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rbft_trl.classifier import VideoClassifier
from rbft_trl.configs import ModelArguments
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import FrameSettings
from rbft_trl.errors import at_least, run_entry
from rbft_trl.model import inference
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.families import vision_tower
from rbft_trl.model.loading import load_base, load_processor

REPOSITORY = Path(__file__).parents[1]


def main(argv: list[str]) -> None:
    """Reads and scores the clips batch by batch, three times; prints medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(REPOSITORY / "toy/base"))
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args(argv)
    at_least(1, clips=args.clips, batch_size=args.batch_size)
    model = load_base(ModelArguments(model_name_or_path=args.model, dtype="float32"), device="cpu").eval()
    card = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml")
    frames = FrameSettings(min_pixels=3136, max_pixels=3136)
    collator = ClipCollator(load_processor(args.model), card, card.data.root, frames, definitions=False)
    classifier = VideoClassifier(model, collator, batch_size=args.batch_size)
    rows = [{"id": str(p), "video": str(p)} for p in sorted((card.data.root / "clips").glob("*.mp4"))[: args.clips]]
    tower, runs = vision_tower(model), []
    for _ in range(3):
        spent: dict[str, float] = defaultdict(float)
        tower.forward, plain = timed(tower.forward, spent, "tower"), tower.forward
        whole = inference.score_labels
        inference.score_labels = timed(whole, spent, "label trie")
        began = time.perf_counter()
        for start in range(0, len(rows), args.batch_size):
            batch = rows[start : start + args.batch_size]
            clips = timed(lambda some: [collator.read_row(row) for row in some], spent, "reading clips")(batch)
            timed(classifier.scores, spent, "scoring")(batch, clips)
        spent["all"] = time.perf_counter() - began
        tower.forward, inference.score_labels = plain, whole
        spent["language model and prompts"] = spent.pop("scoring") - spent["tower"] - spent["label trie"]
        runs.append(dict(spent))
    total = statistics.median(run["all"] for run in runs)
    print(f"{len(rows)} clips, {torch.get_num_threads()} threads, median of 3: {len(rows) / total:.0f} clips/s")
    for part in ("reading clips", "tower", "language model and prompts", "label trie"):
        print(f"{part:28} {100 * statistics.median(run[part] / run['all'] for run in runs):5.1f} %")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


def timed(work: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    """`work`, its seconds added to `spent[part]`."""

    def run(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            spent[part] += time.perf_counter() - began

    return run


if __name__ == "__main__":
    run_entry(main)
