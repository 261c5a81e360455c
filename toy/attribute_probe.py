"""What a model sees of a toy domain: a linear probe per attribute on its frozen features, before and after stage 1.

The probe is fitted on test clips, whose true attributes only their maker knows, and read on those of other sources
(cross-fitted), since stage 1 may have learned the clips that it was trained on by heart. Nothing is chosen by it.
Input: a domain, and folders of trained stages. Output: a table; of a ladder results/NAME.attributes.jsonl.
Command: python toy/attribute_probe.py --domain far --checkpoint outputs/toy/stage1
"""

import argparse
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rbft_trl.data.jsonl import read_jsonl, write_jsonl
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.stats import mean_sd
from rbft_trl.model.loading import load_for_inference
from rbft_trl.model.probe import features_of, reader
from rbft_trl.model.provenance import read_record
from toy.captions import open_toy
from toy.domains import DOMAINS
from toy.measure import Share, share
from toy.scenes import ATTRIBUTES

REPOSITORY = Path(__file__).resolve().parents[1]
STRENGTH = 0.01  # C of scikit-learn for every attribute and checkpoint alike
FOLDS = 5
BASE = "base"
Spread = dict[str, float | int | None]


def probe_attributes(
    task: str, checkpoint: str | None, *, base: str = "toy/base", split: str = "test"
) -> dict[str, Share]:
    """Per attribute and over all, the share of clips that a probe fitted on other sources reads rightly.

    Args:
        task (`str`): A task card whose data root holds an attributes.jsonl.
        checkpoint (`str`, *optional*): A trained stage; the base as it is if None.
        base (`str`, *optional*, defaults to `"toy/base"`): The base, from the root of the repository.
        split (`str`, *optional*, defaults to `"test"`): Whose clips; at least `FOLDS` sources.
    """
    opened, weights, truth = open_toy(task, base)
    model, collator = load_for_inference(weights, checkpoint, device="cpu"), opened.collator()
    # of the label prompt, as the probe of the evaluation has them
    read = reader(model, collator)
    rows, features = features_of(Accelerator(cpu=True), opened.of_split(split), read, 64)
    sources = [row["group"] for row in rows]
    right: dict[str, list[bool]] = {}
    for name in ATTRIBUTES:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))
        gold = [truth[row["id"]][name] for row in rows]
        said = cross_val_predict(probe, features, gold, groups=sources, cv=GroupKFold(FOLDS))
        right[name] = [bool(one == true) for one, true in zip(said, gold, strict=True)]
    every = [verdict for found in right.values() for verdict in found]
    return {name: share(found) for name, found in right.items()} | {"all": share(every)}


def probe_cells(run: Path, kept: Path, card: str, draws: range, settings: dict[str, str]) -> None:
    """Probes the base, and what stage 1 (or direct SFT) left of every cell of a comparison; finished ones are kept.

    Args:
        run (`Path`): Its folder of one rung, with DRAW/ARM/STEP.
        kept (`Path`): results/NAME.attributes.jsonl: one line per cell with the share of each attribute.
        card (`str`): Its task card.
        draws (`range`): Of which draws.
        settings (`dict[str, str]`): What each arm was made with (rbft_trl/compared.py), and under "" the base.

    Raises:
        UserError: if a line that was kept is of an arm that was made otherwise.
    """
    lines: list[dict[str, Any]] = read_jsonl(kept) if kept.is_file() else []
    made = {**settings, BASE: settings[""]}
    if other := next((line["arm"] for line in lines if line["settings"] != made.get(line["arm"])), None):
        raise UserError(f"{kept}: '{other}' was made with other settings than now; delete the file to probe all again")
    done = {(line["arm"], line["draw"]) for line in lines}
    cells: list[tuple[str, int | None, Path | None]] = [(BASE, None, None)]
    for draw in draws:
        stages = sorted([*run.glob(f"draw{draw}/*/stage1"), *run.glob(f"draw{draw}/direct*/direct")])
        cells += [(stage.parent.name, draw, stage) for stage in stages if (stage / "rbft.json").is_file()]
    left = [cell for cell in cells if cell[:2] not in done]
    for number, (arm, draw, stage) in enumerate(left, start=1):
        print(f"[{number}/{len(left)}] attributes after draw {draw}: {arm}", flush=True)
        found = probe_attributes(card, str(stage) if stage else None)
        right = {name: round(one["share"], 4) for name, one in found.items()}
        clips = found["all"]["n"] // len(ATTRIBUTES)
        lines.append({"arm": arm, "draw": draw, "settings": made[arm], "n": clips, "right": right})
        write_jsonl(kept, sorted(lines, key=lambda line: (line["draw"] is not None, line["draw"], line["arm"])))


def attributes(lines: list[dict[str, Any]]) -> dict[str, dict[str, Spread]]:
    """Arm → attribute → `mean_sd` over its draws of the share that the probe reads rightly."""
    found: dict[str, dict[str, Spread]] = {}
    for arm in dict.fromkeys(line["arm"] for line in lines):
        own = [line["right"] for line in lines if line["arm"] == arm]
        found[arm] = {name: mean_sd([right[name] for right in own]) for name in own[0]}
    return found


def main(argv: list[str]) -> None:
    """Prints one line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", choices=list(DOMAINS), default="far")
    parser.add_argument("--checkpoint", nargs="*", default=[], help="folders of trained stages")
    args = parser.parse_args(argv)
    for checkpoint in args.checkpoint:
        read_record(checkpoint)  # told before the first of them is probed
    card = str(REPOSITORY / "recipes/tasks" / DOMAINS[args.domain].card)
    print("| model | " + " | ".join([*ATTRIBUTES, "all"]) + " |\n" + "|---" * (len(ATTRIBUTES) + 2) + "|")
    for checkpoint in [None, *args.checkpoint]:
        found = probe_attributes(card, checkpoint)
        said = [f"{100 * f['share']:.1f}" for f in found.values()]
        print(f"| {checkpoint or 'base'} | " + " | ".join(said) + " |", flush=True)


if __name__ == "__main__":
    run_entry(main)
