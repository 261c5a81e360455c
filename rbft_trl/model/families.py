"""What differs between the families of bases: names of the parts, layers to wrap, positions, linear attention.

Input: a model or a configuration. Output: facts, read from the model itself where it holds them.
"""

import json
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig

from rbft_trl.errors import UserError

PUBLISHED = Path(__file__).parent / "published"  # one file per base: its config.json as published, and its source


def published_config(name: str) -> PreTrainedConfig:
    """The published configuration of a base by its Hub id, without network.

    Args:
        name (`str`): E.g. `Qwen/Qwen3-VL-4B-Instruct`.

    Raises:
        UserError: if it is none of those in `model/published/`.
    """
    known = sorted(f"Qwen/{path.stem}" for path in PUBLISHED.glob("*.json"))
    if name not in known:
        raise UserError(f"the configuration of '{name}' is not shipped; known are {', '.join(known)}")
    values = json.loads((PUBLISHED / f"{name.removeprefix('Qwen/')}.json").read_text(encoding="utf-8"))["config"]
    return CONFIG_MAPPING[values["model_type"]].from_dict(values)


def part_of(name: str) -> str:
    """`llm`, `merger` or `vision`: the part that a parameter or module belongs to, by its name."""
    if "visual." in name + ".":
        return "merger" if ".merger." in name + "." or "deepstack_merger" in name else "vision"
    return "llm"


def vision_tower(model: nn.Module) -> nn.Module:
    """The module that turns pixels into embeddings, merger included."""
    return next(module for name, module in model.named_modules() if name.split(".")[-1] == "visual")


def layers_to_wrap(model: nn.Module) -> list[str]:
    """Class names of the repeated layers of language model and tower: FSDP's `transformer_layer_cls_to_wrap`."""
    present = {type(module).__name__ for module in model.modules()}
    names = sorted(present & set(model._no_split_modules))
    assert len(names) == 2, f"one class of decoder layers and one of tower blocks are expected, not {names}"
    return names


def next_position(model: nn.Module, lengths: torch.Tensor) -> torch.Tensor:
    """Position of the token that follows a prefill, in the layout of multimodal RoPE.

    `rope_deltas` is state that the last prefill left in the module, so this belongs right after that prefill.

    Args:
        model (`nn.Module`): The model, with or without adapter.
        lengths (`torch.Tensor` int64 `[B]`): Prompt tokens per row, padding aside.

    Returns:
        `torch.Tensor` int64 `[3, B, 1]`.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    deltas = inner.model.rope_deltas.reshape(-1)
    return (lengths + deltas.to(lengths.device))[None, :, None].expand(3, -1, -1)
