"""The assay on committed runs: every choice of draws is one comparison, and the controls are arms that were run."""

from math import comb

import assay_runs
import numpy as np
import pytest
from assay_runs import CONTROLS, Control, gains, rates, read_control

from rbft_trl.evidence.outcomes import Outcomes
from rbft_trl.evidence.results import read_results


def outcomes(shares: list[float]) -> Outcomes:
    """An arm that is right on these shares of 200 clips of 100 sources, one per draw."""
    rng, count = np.random.default_rng(0), 200
    keys = tuple((str(i), "a", str(i // 2)) for i in range(count))
    said = np.array([rng.permutation(np.arange(count) >= share * count) for share in shares], np.int64)
    return Outcomes(
        keys, ("a", "b"), np.zeros(count, np.int64), said, np.arange(count) // 2, tuple(range(len(shares)))
    )


def test_every_choice_of_draws_is_one_comparison() -> None:
    flat = outcomes([0.5] * 6)
    found = rates({"direct": flat, "rbft": flat, "oracle": outcomes([0.9] * 6)}, draws=5)
    assert found == {"choices": 6, "better": 0.0, "worse": 0.0, "sees": 1.0, "cannot": 0.0}
    found = rates({"direct": flat, "rbft": outcomes([0.8] * 6), "oracle": flat}, draws=5)
    assert (found["better"], found["sees"], found["cannot"]) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_the_controls_are_arms_that_were_run(control: Control) -> None:
    seen = read_control(control)
    arms = read_results(assay_runs.RESULTS / f"{control.file}.jsonl")["arms"]
    draws = seen["direct"].draws
    assert draws == seen["rbft"].draws == seen["oracle"].draws and len(seen["direct"].gold) == 1000
    for place, outcome in seen.items():
        cell = next(draw for draw in arms[getattr(control, place)]["draws"] if draw["draw"] == draws[-1])
        assert outcome.right[-1].mean() == pytest.approx(cell["metrics"]["accuracy"])


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_the_docs_have_the_gains_of_all_draws(control: Control) -> None:
    """The shares behind them take minutes: `python benchmarks/assay_runs.py`."""
    page = (assay_runs.RESULTS.parent / "docs/statistics.md").read_text(encoding="utf-8")
    seen = read_control(control)
    draws = len(seen["direct"].draws)
    assert draws < 5 or f"| {control.name} | {draws} | {gains(seen)} | {comb(draws, 5)} |" in page
