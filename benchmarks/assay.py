"""The comparison tested as an assay: simulated comparisons with a known truth, and how often the sentence is right.

Output: a table for docs/statistics.md (nothing is trained here: right and wrong answers are drawn from a model).
Command: python benchmarks/assay.py --repetitions 2000
"""

import argparse
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import stdtrit
from scipy.stats import norm

from rbft_trl.errors import at_least, run_entry
from rbft_trl.evidence.conclusion import ALPHA, CANNOT, SEES, conclude, verdict
from rbft_trl.evidence.intervals import estimate
from rbft_trl.evidence.outcomes import Outcomes
from rbft_trl.evidence.stats import POINTS, compare_all

GAP, GAIN = 9.0, 4.0  # points, of the positive control: true rationales, and the treatment
ROLES = {"oracle": "oracle", "shuffled": "control"}
SOURCES = (10, 50, 100, 500)
LABELS = ((16, 24), (8, 24), (16, 100), (16, 2000))  # per class: taken, and there
FEW = (1, 2, 3, 4, 5)  # draws
SHARES = (0.25, 0.5, 1.0)
UNEVEN = {  # relative numbers of clips of the sources
    "20 sources, the k-th holds 1/k of the first": tuple(1 / k for k in range(1, 21)),
    "100 sources, the k-th holds 1/k of the first": tuple(1 / k for k in range(1, 101)),
    "20 sources, one holds half": (19, *[1] * 19),
    "10 sources, one holds 70 %": (21, *[1] * 9),
}


@dataclass(frozen=True)
class World:
    """A truth to compare in. Answers come from a latent normal variable per arm, draw and clip that is right above 0.

    Args:
        gains (`dict`): Points of accuracy by arm, relative to `direct`.
        draws (`int`): Draws of labelled clips.
        clips (`int`): Test clips.
        groups (`int`): Their sources.
        sizes (`tuple`): Relative numbers of clips of the sources, instead of `groups` of one size.
        draw_sd (`float`): Points by which the difference of two arms varies between draws, apart from the clips.
        accuracy (`float`): Of `direct`, a share.
        difficulty, source, taste, source_taste (`float`): Sd of latent effects, in units of the noise of one answer:
            of a clip and of a source on all arms, and of a clip and of a source on one arm alone. The first two make
            arms agree; the last two make a difference repeat from draw to draw.
        roles (`dict`): Role by arm, where it is no candidate.
        labels (`tuple`, *optional*): Labelled clips that a draw takes, how many there are to take from, and the share
            of the variance between disjoint draws that is theirs (the rest is the seeds'); None: draws are disjoint.
    """

    gains: dict[str, float]
    draws: int = 5
    clips: int = 1000
    groups: int = 100
    sizes: tuple[float, ...] = ()
    draw_sd: float = 2.5
    accuracy: float = 0.55
    difficulty: float = 1.0
    source: float = 0.4
    taste: float = 0.4
    source_taste: float = 0.1
    roles: dict[str, str] = field(default_factory=dict)
    labels: tuple[int, int, float] | None = None


def simulate(world: World, rng: np.random.Generator) -> dict[str, Outcomes]:
    """One comparison: outcomes of `direct` and of every arm of `world.gains`."""
    groups = np.arange(world.clips) % world.groups
    if world.sizes:
        ends = np.cumsum(world.sizes) / np.sum(world.sizes)
        groups = np.searchsorted(ends, (np.arange(world.clips) + 0.5) / world.clips)
    keys = tuple((str(i), "0", str(g)) for i, g in enumerate(groups))
    shared = rng.normal(0, world.difficulty, world.clips) + rng.normal(0, world.source, groups.max() + 1)[groups]
    others = world.difficulty**2 + world.source**2 + world.taste**2 + world.source_taste**2 + 1
    level = norm.ppf(world.accuracy)
    # a shift of x latent units moves the accuracy by density(level) · x / sd, so this is draw_sd in latent units
    wobble = world.draw_sd / POINTS / np.sqrt(2) / norm.pdf(level) * np.sqrt(others)
    total = np.sqrt(others + wobble**2)
    made, gold = {}, np.zeros(world.clips, np.int64)
    for arm, gain in {"direct": 0.0, **world.gains}.items():
        latent = norm.ppf(world.accuracy + gain / POINTS) * total + shared
        latent = latent + rng.normal(0, world.taste, world.clips)
        latent = latent + rng.normal(0, world.source_taste, groups.max() + 1)[groups]
        latent = latent + wobble * luck_of_draws(world, rng)[:, None]
        said = (latent + rng.normal(0, 1, (world.draws, world.clips)) <= 0).astype(np.int64)
        made[arm] = Outcomes(keys, ("0", "1"), gold, said, groups, tuple(range(world.draws)))
    return made


def luck_of_draws(world: World, rng: np.random.Generator) -> np.ndarray:
    """What each draw adds to an arm, in sd: draws that take clips from the same few share some of their luck."""
    if world.labels is None:
        return rng.normal(0, 1, world.draws)
    taken, available, share = world.labels
    clips = rng.normal(0, 1, available)
    means = np.array([rng.choice(clips, taken, replace=False).mean() for _ in range(world.draws)])
    return np.sqrt(share * taken) * means + np.sqrt(1 - share) * rng.normal(0, 1, world.draws)


def assay(world: World, *, repetitions: int, seed: int = 0) -> dict[str, float]:
    """Shares of simulated comparisons in which the verdict says something, and in which intervals hold the truth.

    Returns:
        `dict`: `held` (the interval of the first arm), `all_held` (the simultaneous intervals of all treatments),
        `difference` (any treatment is called better or worse), `false` (one whose true gain is 0 is), `right_arm`
        (the arm named as the best is the truly best one), `sees` and `cannot` (of the oracle), `content` (RB-FT is
        said to differ from shuffled rationales), `rival` (a reference is said to beat direct SFT), `beaten` (the first
        arm is said to beat that reference), `wrong` (some part of the sentence claims what is not so), `significant`
        (a treatment without a gain has a corrected p below 0.05, whether or not there are draws enough to claim it),
        `share_held` (of the intervals of the share of the gap, where there is one) and `width` (half of the mean
        interval, points).
    """
    rng = np.random.default_rng(seed)
    roles = {arm: world.roles.get(arm, "candidate") for arm in world.gains}
    treatments = [arm for arm, role in roles.items() if role == "candidate"]
    best = max(treatments, key=lambda arm: world.gains[arm])
    keys = ("held", "all_held", "difference", "false", "right_arm", "sees", "cannot", "content", "rival", "beaten")
    keys = (*keys, "wrong", "significant", "width")
    said: dict[str, list[float]] = {key: [] for key in keys}
    matters = np.sign(world.gains.get("rbft", 0.0) - world.gains.get("shuffled", 0.0))
    shares = []
    for _ in range(repetitions):
        pairs = compare_all(simulate(world, rng), roles, resample=False)
        found, sentence = verdict(pairs), conclude(pairs)
        of = {pair["arm"]: pair for pair in pairs if pair["baseline"] == "direct"}
        claimed = [*found["better"], *found["worse"]]
        assert bool(found["better"]) == ("better than step-matched direct SFT by" in sentence), sentence
        assert all(of[arm]["simultaneous"][0] > 0 for arm in found["better"]), "a claim with an interval that holds 0"
        assert (found["oracle"] == CANNOT) == ("even the true ones do not gain" in sentence), sentence
        said["held"].append(_holds(of[treatments[0]]["interval"], world.gains[treatments[0]]))
        said["all_held"].append(all(_holds(of[arm]["simultaneous"], world.gains[arm]) for arm in treatments))
        said["difference"].append(bool(claimed))
        said["false"].append(any(world.gains[arm] == 0 for arm in claimed))
        said["significant"].append(any(of[a]["p_corrected"] < ALPHA for a in treatments if world.gains[a] == 0))
        said["right_arm"].append(found["better"][:1] == [best])
        said["sees"].append(found["oracle"] == SEES)
        said["cannot"].append(found["oracle"] == CANNOT)
        said["content"].append(bool(found["content"]))
        rival = found["rival"] or {"arm": None, "beaten_by": []}
        said["rival"].append(rival["arm"] is not None)
        said["beaten"].append(treatments[0] in rival["beaten_by"])
        false = [said["false"][-1], bool(found["content"]) and found["content"] != matters]
        false += [said["sees"][-1] and not world.gains["oracle"], said["cannot"][-1] and world.gains["oracle"] >= 3]
        false += [world.gains.get(rival["arm"], GAIN) <= 0]
        false += [world.gains[arm] <= world.gains[rival["arm"]] for arm in rival["beaten_by"]]
        said["wrong"].append(any(false))
        said["width"].append((of[treatments[0]]["interval"][1] - of[treatments[0]]["interval"][0]) / 2)
        if world.gains["oracle"] and (share := of[treatments[0]].get("share")):
            shares.append(_holds(share["interval"], world.gains[treatments[0]] / world.gains["oracle"]))
    rates = {key: float(np.mean(values)) for key, values in said.items()}
    return rates | {"share_held": float(np.mean(shares)) if shares else float("nan")}


def positive(**settings: Any) -> World:
    """True rationales gain 9 points, the treatment 4, and 0 with the rationales of other clips."""
    return World({"rbft": GAIN, "shuffled": 0.0, "oracle": GAP}, roles=ROLES, **settings)


def negative(**settings: Any) -> World:
    """Neither true rationales nor the treatment nor its control gain anything."""
    return World({"rbft": 0.0, "shuffled": 0.0, "oracle": 0.0}, roles=ROLES, **settings)


def beside(reference: float, treatment: float, **settings: Any) -> World:
    """A reference (direct SFT with its own steps, say) gains points too; true rationales gain 9."""
    gains = {"rbft": treatment, "direct_short": reference, "oracle": GAP}
    return World(gains, roles={"oracle": "oracle", "direct_short": "reference"}, **settings)


def many(best: float, *, arms: int = 15, **settings: Any) -> World:
    """Many treatments, of which one gains `best` points and the others nothing; true rationales gain 9."""
    gains = {f"arm{i}": 0.0 for i in range(arms - 1)} | {"winner": best, "oracle": GAP}
    return World(gains, roles={"oracle": "oracle"}, **settings)


def coverage(world: World, *, repetitions: int, seed: int = 0) -> float:
    """Share of intervals of the difference of the first arm that hold the truth; faster than `assay`."""
    rng, held = np.random.default_rng(seed), 0
    (arm, gain), *_ = world.gains.items()
    pair = World({arm: gain}, **{k: v for k, v in vars(world).items() if k not in ("gains", "roles")})
    for _ in range(repetitions):
        made = simulate(pair, rng)
        found = estimate(made[arm].right.astype(float) - made["direct"].right, made[arm].groups)
        held += abs(found.mean - gain / POINTS) <= stdtrit(found.df, 0.975) * found.se
    return held / repetitions


def _holds(interval: list[float], truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


def main(argv: list[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    repetitions = parser.parse_args(argv).repetitions
    at_least(1, repetitions=repetitions)
    print(f"{repetitions} simulated comparisons per line; shares in %\n")
    told = ("difference", "right_arm", "sees", "cannot", "content", "wrong", "held")
    head("control", "draws", "difference claimed", "best arm named", "oracle sees", "cannot help", "content matters",
         "anything wrong", "interval holds")  # fmt: skip
    for name, make in (("positive", positive), ("negative", negative)):
        for draws in (5, 10):
            rates = assay(make(draws=draws), repetitions=repetitions)
            line(name, draws, *(rates[key] for key in told))
    head("15 arms, 14 gain nothing", "draws", "any false claim", "best arm named", "all 15 intervals hold")
    for gain in (0.0, 4.0, 8.0):
        for draws in (5, 10):
            rates = assay(many(gain, draws=draws), repetitions=repetitions)
            line(f"the best gains {gain:g}", draws, *(rates[key] for key in ("false", "right_arm", "all_held")))
    head("equal arms with a corrected p below 0.05", "sd over draws", *(f"{draws} draws" for draws in FEW))
    for arms in (1, 13):
        for draw_sd in (2.5, 4.0):
            worlds = [many(0.0, arms=arms, draws=draws, draw_sd=draw_sd) for draws in FEW]
            rates = (assay(world, repetitions=repetitions)["significant"] for world in worlds)
            line(f"1 of {arms}", f"{draw_sd:g} points", *rates)
    head("a reference gains", "the treatment", "draws", "reference told", "treatment better than it", "anything wrong")
    for gains in ((0.0, 0.0), (0.0, 4.0), (4.0, 4.0), (4.0, 8.0), (8.0, 4.0)):
        for draws in (5, 10):
            rates = assay(beside(*gains, draws=draws), repetitions=repetitions)
            line(*(f"{gain:g}" for gain in gains), draws, *(rates[key] for key in ("rival", "beaten", "wrong")))
    head("draws, sd over draws", *(f"{groups} sources" for groups in SOURCES))
    for draws in (1, 2, 3, 5, 10):
        for draw_sd in (0.0, 2.0, 3.0) if draws > 1 else (0.0,):
            worlds = [positive(draws=draws, groups=groups, draw_sd=draw_sd) for groups in SOURCES]
            line(f"{draws}, {draw_sd:g} points", *(coverage(world, repetitions=repetitions) for world in worlds))
    tastes = (0.0, 0.1, 0.4)
    head("uneven sources", "draws", *(f"sources differ by {taste:g}" for taste in tastes))
    for name, sizes in UNEVEN.items():
        for draws in (1, 5, 10):
            sd = {"draws": draws, "draw_sd": 2.5 if draws > 1 else 0.0}
            worlds = [positive(sizes=sizes, source_taste=taste, **sd) for taste in tastes]
            line(name, draws, *(coverage(world, repetitions=repetitions) for world in worlds))
    head("labels that a draw takes", "draws", *(f"{share:.0%} of its luck is theirs" for share in SHARES))
    for taken, available in LABELS:
        for draws in (5, 10):
            worlds = [positive(draws=draws, labels=(taken, available, share)) for share in SHARES]
            line(f"{taken} of {available:,}", draws, *(coverage(world, repetitions=repetitions) for world in worlds))


def head(*titles: str) -> None:
    """The head of a Markdown table."""
    print("\n| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")


def line(*cells: str | int | float) -> None:
    """A line of a Markdown table; shares in percent."""
    print(
        "| " + " | ".join(f"{100 * cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |",
        flush=True,
    )


if __name__ == "__main__":
    run_entry(main)
