"""The assay on real outcomes: what it samples has the truth that it claims, and the sentence keeps its error rates."""

import assay_real
import numpy as np
import pytest
from assay_real import CLIPS, Arrays, assay, one_comparison, population

from rbft_trl.errors import UserError
from tests.test_assay import at_most

CLASSES, WIDTH = 4, 16


def clips(count: int, rng: np.random.Generator) -> Arrays:
    """Features that tell the class only in part; three clips per source, which have something in common."""
    label = np.arange(count) % CLASSES
    source = np.arange(count) // (3 * CLASSES) * CLASSES + label
    features = 0.7 * np.eye(CLASSES).repeat(WIDTH // CLASSES, axis=1)[label]
    features = features + rng.normal(size=(count, WIDTH)) + 0.5 * rng.normal(size=(source.max() + 1, WIDTH))[source]
    return {"features": features, "label": label, "source": source}


@pytest.fixture(scope="module")
def sets() -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(0)
    return clips(400, rng), clips(1200, rng)


def test_a_comparison_has_whole_sources_and_equal_clips_for_all(sets: tuple[Arrays, Arrays]) -> None:
    said = population(*sets, {"direct": 4, "rbft": 4, "oracle": 8}, draws=6, rng=np.random.default_rng(1))
    made = one_comparison(said, sets[1], draws=5, rng=np.random.default_rng(2))
    assert CLIPS <= len(made["direct"].gold) < CLIPS + 4 and made["rbft"].said.shape == made["direct"].said.shape
    assert set(np.bincount(made["direct"].groups)) == {3} and made["oracle"].keys == made["direct"].keys
    assert (made["rbft"].said != made["direct"].said).any(), "the same labels, other features"


def test_with_equal_arms_little_is_claimed(sets: tuple[Arrays, Arrays]) -> None:
    said = population(*sets, dict.fromkeys(("direct", "rbft", "oracle"), 8), draws=60, rng=np.random.default_rng(3))
    rates = assay(said, sets[1], draws=5, repetitions=200)
    assert at_most(rates["better"] + rates["worse"], 0.06, 200) and at_most(rates["sees"], 0.03, 200)
    assert at_most(1 - rates["held"], 0.06, 200) and at_most(1 - rates["oracle_held"], 0.06, 200)


def test_a_real_gain_is_seen(sets: tuple[Arrays, Arrays]) -> None:
    said = population(*sets, {"direct": 2, "rbft": 6, "oracle": 60}, draws=60, rng=np.random.default_rng(4))
    rates = assay(said, sets[1], draws=5, repetitions=100)
    assert rates["sees"] > 0.95 and rates["cannot"] == 0 and rates["worse"] == 0
    assert at_most(1 - rates["oracle_held"], 0.06, 100)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repetitions", "0"], "--repetitions is 0 but must be at least 1"),
        (["--draws", "-1"], "--draws is -1"),
        (["--test", "0"], "--test is 0"),
        (["--labelled", "12"], "--labelled is 12 but must be at least 18"),  # the oracle's shots
    ],
)
def test_numbers_that_would_measure_nothing(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assay_real, "read_clips", None)  # told before any clip is made
    with pytest.raises(UserError, match=message):
        assay_real.main(words)
