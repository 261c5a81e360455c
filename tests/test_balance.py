"""Class balance: every class is shown, or weighs, the same; nothing changes where classes are even."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from rbft_trl import plan, sft
from rbft_trl.model.trainer import WeightedSampler
from rbft_trl.stage_rows import balance_weights
from tests.helpers import toy_recipe
from tests.test_training import QUICK, losses

UNEVEN = [{"label": label} for label in "aaaaaab"] + [{"label": None}] * 3


def test_every_class_weighs_the_same() -> None:
    weights = balance_weights(UNEVEN)
    mass = Counter()
    for row, weight in zip(UNEVEN, weights, strict=True):
        mass[row["label"]] += weight
    assert mass == {"a": pytest.approx(3.5), "b": pytest.approx(3.5), None: 3.0}
    assert balance_weights([{"label": None}] * 2) == [1.0, 1.0]


def test_the_sampler_shows_classes_equally_often_and_repeats_an_epoch() -> None:
    sampler = WeightedSampler(balance_weights(UNEVEN[:7]), seed=0)
    seen, epochs = Counter(), []
    for epoch in range(400):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        seen.update(UNEVEN[i]["label"] for i in epochs[-1])
    assert len(epochs[0]) == len(sampler) == 7 and epochs[0] != epochs[1]
    share = seen["a"] / seen.total()
    assert abs(share - 0.5) < 4 * (0.25 / seen.total()) ** 0.5  # four standard errors
    sampler.set_epoch(3)
    assert list(sampler) == epochs[3]


def test_even_classes_give_the_same_loss_with_weights(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    for name in ("none", "weights"):
        changes = QUICK | {"class_balance": name, "output_dir": tmp_path / name, "logging_steps": 1}
        sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **changes)])
    assert losses(tmp_path / "weights") == pytest.approx(losses(tmp_path / "none"), abs=1e-6)


def test_a_weight_multiplies_its_row(toy_set: tuple, smoke_base: Path, monkeypatch: pytest.MonkeyPatch,
                                     tmp_path: Path) -> None:  # fmt: skip
    """All weights doubled, before the first step: the loss is doubled."""
    first = {}
    for factor in (1.0, 2.0):
        monkeypatch.setattr(plan, "balance_weights", lambda rows, factor=factor: [factor] * len(rows))
        out = tmp_path / str(factor)
        changes = QUICK | {"class_balance": "weights", "output_dir": out, "logging_steps": 1, "max_steps": 1}
        sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **changes)])
        (first[factor],) = losses(out)
    assert first[2.0] == pytest.approx(2 * first[1.0], rel=1e-5)


def test_the_sampler_trains_and_resumes(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    common = QUICK | {"class_balance": "sampler", "max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    common |= {"logging_steps": 1, "save_total_limit": ...}
    straight = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **common, output_dir=tmp_path / "a")
    broken = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **common, output_dir=tmp_path / "b")
    sft.main([straight])
    sft.main([broken])
    for name in ("rbft.json", "adapter_model.safetensors", "checkpoint-8/trainer_state.json"):
        (tmp_path / "b" / name).unlink()
    sft.main([broken, "--resume_from_checkpoint", "true"])
    assert (
        losses(tmp_path / "a") == losses(tmp_path / "b") and torch.isfinite(torch.tensor(losses(tmp_path / "a"))).all()
    )
