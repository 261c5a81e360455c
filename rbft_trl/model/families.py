"""What differs between the families of bases: names of the parts, positions, linear attention.

Input: a model, a processor or a configuration. Output: facts, read from these where they hold them.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from rbft_trl.errors import UserError

PUBLISHED = Path(__file__).parent / "published"  # one file per base: its config.json as published, and its source
# Tower and all mergers are inside `visual`; the gates of linear attention are one number per head and token.
NOT_IN_4BIT = ["visual", "model.visual", "lm_head", "in_proj_a", "in_proj_b"]
FOUR_BIT_LINEAR = (
    "4-bit training of bases with linear-attention layers loses more than usual and is not recommended (Unsloth's "
    "guide to Qwen3.5); write load_in_4bit: false, which trains a LoRA on bfloat16 weights"
)


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


def has_linear_attention(config: PreTrainedConfig) -> bool:
    """Whether some layers of the language model keep a recurrent state instead of keys and values."""
    return "linear_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())


def against_4bit(config: PreTrainedConfig) -> str | None:
    """Why a base of this family should not be trained in 4 bit; None where nothing is known against it."""
    return FOUR_BIT_LINEAR if has_linear_attention(config) else None


def refuse_tree_masks(model: PreTrainedModel) -> None:
    """Makes a forward stop that would leak between branches: transformers drops a 4-D mask, and the borders of packed
    samples, on linear-attention layers without an error, and their states run on from one branch into the next.

    Args:
        model (`PreTrainedModel`): The base; one with attention layers alone is left as it is.
    """

    def check(_: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        four_rows = mask is None and positions is not None and positions.ndim == 3 and len(positions) == 4
        if four_rows and bool((positions[0].diff(dim=-1) < 0).any()):
            raise UserError(
                "this base has linear-attention layers, whose state would leak between samples packed into one row; "
                "give each sample a row of its own"
            )
        if isinstance(mask, torch.Tensor) and mask.ndim == 4:
            raise UserError(
                "this base has linear-attention layers, which ignore a 4-D mask, so branches would see each other; "
                "give each branch a row of its own"
            )

    if has_linear_attention(model.config):
        model.model.language_model.register_forward_pre_hook(check, with_kwargs=True)


def writes_time_stamps(processor: ProcessorMixin) -> bool:
    """Whether the processor writes the seconds, and start and end tokens, around every pair of frames."""
    return hasattr(processor, "vision_start_token")


def one_pair_of_marks(processor: ProcessorMixin, text: str) -> str:
    """Takes the start and end token off the placeholder of a clip where the processor writes its own.

    transformers from 5.12 replaces the bare placeholder and so leaves the template's pair around the processor's; at
    the release of these models (4.57), and in vLLM, the whole of it was replaced (vllm#46817).
    """
    if not writes_time_stamps(processor):
        return text
    marked = processor.vision_start_token + processor.video_token + processor.vision_end_token
    return text.replace(marked, processor.video_token)


def position_after(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Position of the token that follows the last one of a batch, in the layout of multimodal RoPE.

    The `rope_deltas` that a forward leaves in the module for `generate` count from the largest position instead.
    In Qwen2-VL and Qwen2.5-VL text goes on from the clip's height and width, and the frames of a long clip reach
    further than that until enough text follows; training goes on from the text, so a score must too.

    Args:
        model (`nn.Module`): The model, with or without adapter.
        batch (`dict`): What the forward took; padding on the left.

    Returns:
        `torch.Tensor` int64 `[3, B, 1]`.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner.model.get_rope_index(**batch)[0][-3:, :, -1:] + 1
