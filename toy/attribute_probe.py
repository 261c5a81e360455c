"""What a model sees of a toy domain: a linear probe per attribute on its frozen features, before and after stage 1.

The probe is fitted on clips of the pool, whose true attributes only their maker knows, and read on validation clips.
Input: a domain, and folders of trained stages. Output: a table; as a function, figures with intervals.
Command: python toy/attribute_probe.py --domain far --checkpoint outputs/toy/stage1
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rbft_trl.configs import DataArguments, ModelArguments
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.errors import run_entry
from rbft_trl.model.collator import ClipCollator, Row
from rbft_trl.model.inference import prefill
from rbft_trl.model.loading import load_for_inference
from rbft_trl.start import open_task
from toy.domains import DOMAINS
from toy.measure import Share, share
from toy.scenes import ATTRIBUTES, SIDE

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMES = {"num_frames": 8, "min_pixels": SIDE * SIDE, "max_pixels": SIDE * SIDE}
STRENGTH = 0.01  # C of scikit-learn for every attribute and checkpoint alike


def probe_attributes(
    task: str, checkpoint: str | None, *, base: str = "toy/base", most: int = 768
) -> dict[str, Share]:
    """Per attribute and over all, the share of validation clips that the probe reads rightly.

    Args:
        task (`str`): A task card whose data root holds an attributes.jsonl.
        checkpoint (`str`, *optional*): A trained stage; the base as it is if None.
        base (`str`, *optional*, defaults to `"toy/base"`): The base, from the root of the repository.
        most (`int`, *optional*, defaults to 768): Clips of the pool that the probe is fitted on.
    """
    weights = ModelArguments(model_name_or_path=str(REPOSITORY / base), dtype="float32")
    opened = open_task(DataArguments(task=task, definitions=False, **FRAMES), weights)
    truth = {row["id"]: row for row in read_jsonl(opened.root / "attributes.jsonl")}
    pool = [row for row in opened.rows if row["split"] == "train" and row["label"] is None][:most]
    held_out = opened.of_split("validation")
    model, collator = load_for_inference(weights, checkpoint, device="cpu"), opened.collator()
    seen, unseen = (features(model, collator, rows) for rows in (pool, held_out))
    right: dict[str, list[bool]] = {}
    for name in ATTRIBUTES:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))
        probe.fit(seen, [truth[row["id"]][name] for row in pool])
        gold = [truth[row["id"]][name] for row in held_out]
        right[name] = [bool(said == true) for said, true in zip(probe.predict(unseen), gold, strict=True)]
    every = [verdict for found in right.values() for verdict in found]
    return {name: share(found) for name, found in right.items()} | {"all": share(every)}


def features(model: torch.nn.Module, collator: ClipCollator, rows: list[Row], batch_size: int = 64) -> np.ndarray:
    """The features of the label prompt, float32 `[N, 2 * hidden]`, as the probe of the evaluation has them."""
    found = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        found.append(prefill(model, collator.prompts(batch, [collator.label_prompt(row) for row in batch])).features)
    return torch.cat(found).numpy()


def main(argv: list[str]) -> None:
    """Prints one line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", choices=list(DOMAINS), default="far")
    parser.add_argument("--checkpoint", nargs="*", default=[], help="folders of trained stages")
    args = parser.parse_args(argv)
    card = str(REPOSITORY / "recipes/tasks" / DOMAINS[args.domain].card)
    print("| model | " + " | ".join([*ATTRIBUTES, "all"]) + " |\n" + "|---" * (len(ATTRIBUTES) + 2) + "|")
    for checkpoint in [None, *args.checkpoint]:
        found = probe_attributes(card, checkpoint)
        said = [f"{100 * f['share']:.1f}" for f in found.values()]
        print(f"| {checkpoint or 'base'} | " + " | ".join(said) + " |", flush=True)


if __name__ == "__main__":
    run_entry(main)
