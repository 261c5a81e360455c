"""The work of a LoRA step with a frozen tower, counted: no more than 5 % above what it must cost.

Ideal = F_V (tower, forward) + 2 F_L (language model with LoRA: forward, and the gradient of its inputs) + the weight
gradients of LoRA + the head as TRL runs it on this device; each counted on its own.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from trl.trainer.utils import add_fused_lm_head

from rbft_trl.configs import AdapterArguments
from rbft_trl.model.loading import load_base, prepare_for_training
from tests.helpers import base_arguments, make_collator


def flops(work: object) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def parts(toy_set: tuple[Path, Path], smoke_base: Path) -> tuple:
    """(LoRA model as TRL trains it, batch)."""
    collator = make_collator(*toy_set, smoke_base)
    row = {"video": "clips/toy00000.mp4", "label": "dorvan", "target": "label", "text": ""}
    base = load_base(base_arguments(smoke_base), device="cpu")
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    return prepare_for_training(base, AdapterArguments(lora_dropout=0.0)), collator([row] * 4)


def step(model: torch.nn.Module, batch: dict) -> None:
    model(**batch, fused_lm_head=True).loss.backward()
    model.zero_grad()


def ideal(model: torch.nn.Module, batch: dict) -> int:
    inner = model.get_base_model()
    tower = flops(lambda: inner.get_video_features(batch["pixel_values_videos"], batch["video_grid_thw"]))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    hidden = inner.get_input_embeddings()(ids).detach()
    position_ids = torch.arange(ids.shape[1]).expand(3, *ids.shape)

    def language() -> None:
        with torch.no_grad():
            inner.model.language_model(inputs_embeds=hidden, attention_mask=mask, position_ids=position_ids)

    with_lora = flops(language)
    with model.disable_adapter():
        without = flops(language)
    return tower + 2 * with_lora + (with_lora - without) + head(inner, hidden, batch["labels"])


def head(inner: torch.nn.Module, hidden: torch.Tensor, labels: torch.Tensor) -> int:
    """The fused head alone, forward and backward: the backbone is replaced by its output."""

    kept = inner.model.forward
    inner.model.forward = lambda **_: SimpleNamespace(last_hidden_state=hidden.clone().requires_grad_(True))
    try:
        return flops(lambda: inner(labels=labels, fused_lm_head=True).loss.backward())
    finally:
        inner.model.forward = kept


def test_a_lora_step_does_no_more_than_it_must(parts: tuple) -> None:
    model, batch = parts
    ratio = flops(lambda: step(model, batch)) / ideal(model, batch)
    print(f"executed / ideal FLOPs: {ratio:.4f}")
    assert 0.8 < ratio <= 1.05


def test_a_backward_through_the_tower_would_be_noticed(parts: tuple) -> None:
    model, batch = parts
    allowed = 1.05 * ideal(model, batch)
    tower = model.get_base_model().model.visual
    cut = tower.forward
    tower.forward = type(tower).forward.__get__(tower)
    hook = tower.patch_embed.register_forward_hook(lambda _, __, out: out.requires_grad_(True))
    executed = flops(lambda: step(model, batch))
    hook.remove()
    tower.forward = cut
    assert executed > allowed
