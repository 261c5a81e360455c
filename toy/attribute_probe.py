"""What a model sees of a toy domain: a linear probe per attribute on its frozen features, before and after stage 1.

The probe is fitted on clips of the pool, whose true attributes only their maker knows, and read on validation clips.
Input: a domain, and folders of trained stages. Output: a table; as a function, figures with intervals.
Command: python toy/attribute_probe.py --domain far --checkpoint outputs/toy/stage1
"""

import argparse
from pathlib import Path

from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rbft_trl.errors import run_entry
from rbft_trl.model.loading import load_for_inference
from rbft_trl.model.probe import features_of, reader
from toy.captions import open_toy
from toy.domains import DOMAINS
from toy.measure import Share, share
from toy.scenes import ATTRIBUTES

REPOSITORY = Path(__file__).resolve().parents[1]
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
    opened, weights, truth = open_toy(task, base)
    pool = [row for row in opened.rows if row["split"] == "train" and row["label"] is None][:most]
    model, collator = load_for_inference(weights, checkpoint, device="cpu"), opened.collator()
    # of the label prompt, as the probe of the evaluation has them, and sorted by id as these are
    read, alone = reader(model, collator), Accelerator(cpu=True)
    pool, seen = features_of(alone, pool, read, 64)
    held_out, unseen = features_of(alone, opened.of_split("validation"), read, 64)
    right: dict[str, list[bool]] = {}
    for name in ATTRIBUTES:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))
        probe.fit(seen, [truth[row["id"]][name] for row in pool])
        gold = [truth[row["id"]][name] for row in held_out]
        right[name] = [bool(said == true) for said, true in zip(probe.predict(unseen), gold, strict=True)]
    every = [verdict for found in right.values() for verdict in found]
    return {name: share(found) for name, found in right.items()} | {"all": share(every)}


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
