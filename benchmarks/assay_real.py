"""The comparison tested as an assay on real outcomes: probes on real features of real clips instead of a simulation.

A population is made once: many draws of labelled clips, every arm fitted on each, every test clip answered. Then
comparisons are drawn from it, draws and sources with replacement, so that the truth is known: the population's means.
Positive control: arms that have more labels than `direct`, up to an oracle gap of 8 points and more. Negative control:
arms that differ from `direct` by a coin alone (each draw of each arm sees another random half of the features).
Output: a table for docs/statistics.md. Command: python benchmarks/assay_real.py
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from rbft_trl.configs import DataArguments, ModelArguments
from rbft_trl.errors import at_least, run_entry
from rbft_trl.evidence.conclusion import CANNOT, SEES, conclude, verdict
from rbft_trl.evidence.outcomes import Outcomes
from rbft_trl.evidence.stats import POINTS, compare_all
from rbft_trl.model.loading import load_for_inference
from rbft_trl.model.probe import features_of, reader
from rbft_trl.start import open_task
from toy.clips import main as make_clips
from toy.scenes import FRAMES

REPOSITORY = Path(__file__).resolve().parents[1]
CARD = REPOSITORY / "recipes/tasks/toy.yaml"
BASE = ModelArguments(model_name_or_path=str(REPOSITORY / "toy/base"), dtype="float32")
STRENGTH = 0.01  # C of scikit-learn, for every arm alike
SHOTS = {"positive": {"direct": 8, "rbft": 12, "oracle": 18}, "negative": {"direct": 8, "rbft": 8, "oracle": 8}}
ROLES = {"rbft": "candidate", "oracle": "oracle"}
CLIPS = 1000  # about as many test clips as a comparison of the toy domain has
Arrays = dict[str, np.ndarray]


def read_clips(folder: Path, *, labelled: int, test: int) -> tuple[Arrays, Arrays]:
    """Features `[N, F]`, class `[N]` and source `[N]` of the labelled training clips and of the test clips."""
    counts = ["--labelled", str(labelled), "--pool", "0", "--validation", "8", "--test", str(test)]
    make_clips(["--out", str(folder / "clips"), "--seed", "1", *counts])
    card = CARD.read_text(encoding="utf-8").replace("../../outputs/toy/clips", str(folder / "clips"))
    (folder / "toy.yaml").write_text(card, encoding="utf-8")
    task = open_task(DataArguments(task=str(folder / "toy.yaml"), definitions=False, **FRAMES), BASE)
    read = reader(load_for_inference(BASE, None, device="cpu"), task.collator())
    return tuple(_arrays(*features_of(Accelerator(cpu=True), task.of_split(split), read, 64), task.card.names)
                 for split in ("train", "test"))  # fmt: skip


def population(train: Arrays, test: Arrays, shots: dict[str, int], *, draws: int, rng: np.random.Generator) -> Arrays:
    """What every arm says of every test clip, int64 `[draws, N]`; an arm with more labels has those of the others."""
    said: dict[str, list[np.ndarray]] = {arm: [] for arm in shots}
    width = train["features"].shape[1]
    for _ in tqdm(range(draws), desc="draws", unit="draw"):
        order = rng.permutation(len(train["label"]))
        for arm, most in shots.items():
            chosen = np.concatenate([order[train["label"][order] == c][:most] for c in np.unique(train["label"])])
            seen = rng.choice(width, width // 2, replace=False)  # the luck of a training
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))
            probe.fit(train["features"][np.ix_(chosen, seen)], train["label"][chosen])
            said[arm].append(probe.predict(test["features"][:, seen]))
    return {arm: np.stack(found) for arm, found in said.items()}


def one_comparison(said: Arrays, test: Arrays, *, draws: int, rng: np.random.Generator) -> dict[str, Outcomes]:
    """Draws and sources of test clips, taken from the population with replacement."""
    sources = [np.flatnonzero(test["source"] == s) for s in np.unique(test["source"])]
    taken: list[np.ndarray] = []
    while sum(map(len, taken)) < CLIPS:
        taken.append(sources[rng.integers(len(sources))])
    clips, groups = np.concatenate(taken), np.repeat(np.arange(len(taken)), [len(t) for t in taken])
    names = tuple(str(c) for c in range(int(test["label"].max()) + 1))
    told = zip(test["label"][clips], groups, strict=True)
    keys = tuple((str(i), names[label], str(group)) for i, (label, group) in enumerate(told))
    chosen = rng.integers(len(said["direct"]), size=draws)
    return {
        arm: Outcomes(keys, names, test["label"][clips], own[np.ix_(chosen, clips)], groups, tuple(range(draws)))
        for arm, own in said.items()
    }


def assay(said: Arrays, test: Arrays, *, draws: int, repetitions: int, seed: int = 0) -> dict[str, float]:
    """Shares of comparisons in which the sentence says something, and in which intervals hold the truth.

    Returns:
        `dict`: `better` and `worse` (RB-FT's stand-in is called so), `sees` and `cannot` (of the oracle), `held` and
        `oracle_held` (the intervals of the two differences).
    """
    rng = np.random.default_rng(seed)
    truth = {arm: POINTS * float((own == test["label"]).mean()) for arm, own in said.items()}
    found: dict[str, list[bool]] = {k: [] for k in ("better", "worse", "sees", "cannot", "held", "oracle_held")}
    for _ in range(repetitions):
        pairs = compare_all(one_comparison(said, test, draws=draws, rng=rng), ROLES, resample=False)
        told, sentence = verdict(pairs), conclude(pairs)
        assert bool(told["better"]) == ("better than step-matched direct SFT by" in sentence), sentence
        of: dict[str, Any] = {pair["arm"]: pair["interval"] for pair in pairs if pair["baseline"] == "direct"}
        for key, arm in (("held", "rbft"), ("oracle_held", "oracle")):
            found[key].append(of[arm][0] <= truth[arm] - truth["direct"] <= of[arm][1])
        found["better"].append(bool(told["better"]))
        found["worse"].append(bool(told["worse"]))
        found["sees"].append(told["oracle"] == SEES)
        found["cannot"].append(told["oracle"] == CANNOT)
    return {key: float(np.mean(values)) for key, values in found.items()}


def _arrays(rows: list[dict[str, Any]], features: np.ndarray, names: list[str]) -> Arrays:
    labels = np.array([names.index(row["label"]) for row in rows])
    return {"features": features, "label": labels, "source": np.array([row["group"] for row in rows])}


def main(argv: list[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=int, default=100, help="labelled clips per class to draw from")
    parser.add_argument("--test", type=int, default=4000, help="test clips of the population")
    parser.add_argument("--draws", type=int, default=300, help="draws of the population")
    parser.add_argument("--repetitions", type=int, default=1000)
    args = parser.parse_args(argv)
    at_least(max(max(shots.values()) for shots in SHOTS.values()), labelled=args.labelled)  # else an arm has fewer
    at_least(1, test=args.test, draws=args.draws, repetitions=args.repetitions)
    with tempfile.TemporaryDirectory() as folder:
        train, test = read_clips(Path(folder), labelled=args.labelled, test=args.test)
    sources = len(np.unique(test["source"]))
    print(f"{args.draws} draws, {len(test['label']):,} test clips of {sources} sources; shares in %")
    keys = ("better", "worse", "sees", "cannot", "held", "oracle_held")
    print("\n| control | true gains: treatment, oracle | draws | called better | called worse | oracle sees "
          "| cannot help | interval holds, treatment | oracle |\n" + "|---" * 9 + "|")  # fmt: skip
    for name, shots in SHOTS.items():
        said = population(train, test, shots, draws=args.draws, rng=np.random.default_rng(0))
        mean = {arm: POINTS * (own == test["label"]).mean() for arm, own in said.items()}
        gains = ", ".join(f"{mean[arm] - mean['direct']:+.1f}" for arm in ROLES)
        for draws in (5, 10):
            rates = assay(said, test, draws=draws, repetitions=args.repetitions)
            told = " | ".join(f"{POINTS * rates[key]:.1f}" for key in keys)
            print(f"| {name} | {gains} | {draws} | {told} |", flush=True)


if __name__ == "__main__":
    run_entry(main)
