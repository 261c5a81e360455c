"""The sentence on real runs of the whole pipeline: what it says on every choice of five draws of a comparison.

The draws are those of results/ (stages 0 to 2, real trainings, 1,000 test clips), the answer of each choice stands
beside that of all draws. The choices overlap, so this says how stable the sentence is and not how often it errs among
independent comparisons, of which there are none to have; those rates are simulated (assay.py) or on probes
(assay_real.py). Output: a table for docs/statistics.md. Command: python benchmarks/assay_runs.py
"""

import argparse
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from rbft_trl.errors import at_least, run_entry
from rbft_trl.evidence.conclusion import CANNOT, SEES, verdict
from rbft_trl.evidence.outcomes import Outcomes, read_outcomes
from rbft_trl.evidence.power import FEWEST_DRAWS
from rbft_trl.evidence.results import read_results
from rbft_trl.evidence.stats import POINTS, compare_all

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROLES = {"rbft": "candidate", "oracle": "oracle"}
Seen = dict[str, Outcomes]


@dataclass(frozen=True)
class Control:
    """Three arms of a comparison, in the places of direct SFT, of a treatment and of the oracle.

    Args:
        name (`str`): Of the line.
        file (`str`): In results/.
        direct (`str`): Arm in the place of direct SFT.
        rbft (`str`): In that of the treatment.
        oracle (`str`): In that of true texts.
    """

    name: str
    file: str
    direct: str = "direct"
    rbft: str = "rbft"
    oracle: str = "oracle"


# Negative: true texts with LoRA on the language model alone teach the model nothing (RESULTS.md, the ladder).
CONTROLS = [
    Control("positive: *far*", "arms_far"),
    Control("positive: *fine*", "arms_fine"),
    Control(
        "positive: ladder, guideline 4x, tower", "ladder_far", "direct_lm", "hinted_4x_tower", "guideline_4x_tower"
    ),
    Control("positive: ladder, true 16x, tower", "ladder_far", "direct_lm", "hinted_16x_tower", "true_16x_tower"),
    Control("negative: ladder, true 1x, lm", "ladder_far", "direct_lm", "hinted_1x_lm", "true_1x_lm"),
    Control("negative: ladder, true 4x, lm", "ladder_far", "direct_lm", "hinted_4x_lm", "true_4x_lm"),
    Control("negative: ladder, true 16x, lm", "ladder_far", "direct_lm", "hinted_16x_lm", "true_16x_lm"),
    Control("negative: *disputed*", "arms_disputed"),
]


def read_control(control: Control) -> Seen:
    """Outcomes of the three arms on the draws that all have, by the place that they stand in."""
    comparison = read_results(RESULTS / f"{control.file}.jsonl")
    rung = comparison["rungs"][-1]
    names = next(iter(rung["arms"].values()))["draws"][0]["metrics"]["confusion"]["labels"]
    seen = {
        place: read_outcomes(rung["arms"][getattr(control, place)]["draws"], names, clips=rung["clips"])
        for place in ("direct", *ROLES)
    }
    shared = sorted(set.intersection(*(set(outcomes.draws) for outcomes in seen.values())))
    return {place: outcomes.on(shared) for place, outcomes in seen.items()}


def gains(seen: Seen) -> str:
    """What the treatment and the oracle gain on direct SFT over all draws, in points."""
    mean = {place: POINTS * of.right.mean() for place, of in seen.items()}
    return ", ".join(f"{mean[place] - mean['direct']:+.1f}" for place in ROLES)


def rates(seen: Seen, *, draws: int) -> dict[str, float]:
    """Shares of the choices of `draws` draws in which the sentence says something.

    Returns:
        `dict`: `choices` (how many), `better` and `worse` (the treatment), `sees` and `cannot` (the oracle).
    """
    told = [
        verdict(compare_all({place: of.on(chosen) for place, of in seen.items()}, ROLES, resample=False))
        for chosen in combinations(seen["direct"].draws, draws)
    ]
    shares = {side: float(np.mean([bool(one[side]) for one in told])) for side in ("better", "worse")}
    shares |= {
        key: float(np.mean([one["oracle"] == said for one in told]))
        for key, said in (("sees", SEES), ("cannot", CANNOT))
    }
    return {"choices": len(told)} | shares


def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=FEWEST_DRAWS)
    args = parser.parse_args(argv)
    at_least(FEWEST_DRAWS, draws=args.draws)
    head = f"control | draws in all | gains of all draws: treatment, oracle | choices of {args.draws}"
    print(f"| {head} | called better | called worse | oracle sees | cannot help |\n" + "|---" * 8 + "|")
    for control in CONTROLS:
        seen = read_control(control)
        if (there := len(seen["direct"].draws)) < args.draws:
            print(f"| {control.name} | {there} | | 0 | | | | |")
            continue
        found = rates(seen, draws=args.draws)
        told = " | ".join(f"{POINTS * found[key]:.1f}" for key in ("better", "worse", "sees", "cannot"))
        print(f"| {control.name} | {there} | {gains(seen)} | {found['choices']} | {told} |", flush=True)


if __name__ == "__main__":
    run_entry(main)
