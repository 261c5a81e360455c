"""A tiny random base of each family: a folder with model and processor that the real Auto classes load.

The tokenizer is the toy base's own; sizes are as small as the families' layouts allow, every kind of layer included.
"""

from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl import Qwen2VLConfig, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor
from transformers.models.qwen3_5 import Qwen3_5Config
from transformers.models.qwen3_vl import Qwen3VLConfig, Qwen3VLProcessor, Qwen3VLVideoProcessor

from rbft_trl.data.video import FrameSettings
from toy.base_model import CHAT_TEMPLATE

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
LINEAR = "qwen3_5"  # the family with linear-attention layers
# Sizes above 2B think aloud unless they are told not to: the template opens the thought for the model.
THINKING = (
    "{%- if add_generation_prompt -%}{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{- '<think>\n\n</think>\n\n' -}}{%- else -%}{{- '<think>\n' -}}{%- endif -%}{%- endif -%}"
)


def layers_to_wrap(model: PreTrainedModel) -> list[str]:
    """Class names of the repeated layers of language model and tower, which FSDP wraps; the model names them."""
    return sorted({type(module).__name__ for module in model.modules()} & set(model._no_split_modules))


def frame_settings(family: str) -> FrameSettings:
    """Four merged patches per frame pair."""
    side = 2 * 2 * patch_size(family)
    return FrameSettings(num_frames=8, min_pixels=side * side, max_pixels=side * side)


def patch_size(family: str) -> int:
    return 14 if family in ("qwen2_vl", "qwen2_5_vl") else 16


def tiny_base(family: str, folder: Path, smoke_base: Path) -> Path:
    """Writes the tiny base of a family to `folder / family`; weights are drawn with seed 0."""
    tokenizer = AutoTokenizer.from_pretrained(smoke_base)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(CONFIGS[family](tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder / family)
    _processor(family, tokenizer).save_pretrained(folder / family)
    return folder / family


def _processor(family: str, tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin:
    kinds = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor}
    video = Qwen2VLVideoProcessor if family in kinds else Qwen3VLVideoProcessor
    shapes = {"patch_size": patch_size(family), "temporal_patch_size": 2, "merge_size": 2}
    return kinds.get(family, Qwen3VLProcessor)(
        image_processor=Qwen2VLImageProcessor(**shapes),
        tokenizer=tokenizer,
        video_processor=video(**shapes),
        chat_template=CHAT_TEMPLATE + THINKING if family == LINEAR else CHAT_TEMPLATE,
    )


def _ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    return {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}


def _text(tokenizer: PreTrainedTokenizerBase, **more: object) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "initializer_range": 0.1, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    } | more  # fmt: skip


def _qwen2_vl(tokenizer: PreTrainedTokenizerBase) -> Qwen2VLConfig:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "initializer_range": 0.1}
    return Qwen2VLConfig(text_config=_text(tokenizer), vision_config=vision, **_ids(tokenizer), **TIED)


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
        "window_size": 56, "fullatt_block_indexes": [1], "tokens_per_second": 2, "initializer_range": 0.1,
    }  # fmt: skip
    return Qwen2_5_VLConfig(text_config=_text(tokenizer), vision_config=vision, **_ids(tokenizer), **TIED)


PATCH16 = {
    "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, "patch_size": 16,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64, "initializer_range": 0.1,
}  # fmt: skip
TIED = {"tie_word_embeddings": True}


def _qwen3_vl(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = _text(tokenizer, head_dim=16, rope_parameters=rope, num_hidden_layers=3)
    vision = PATCH16 | {"deepstack_visual_indexes": [0, 1]}
    return Qwen3VLConfig(text_config=text, vision_config=vision, **_ids(tokenizer), **TIED)


def _qwen3_5(tokenizer: PreTrainedTokenizerBase) -> Qwen3_5Config:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = _text(
        tokenizer, head_dim=32, rope_parameters=rope | {"partial_rotary_factor": 0.25}, num_hidden_layers=4,
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
        layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    )  # fmt: skip
    return Qwen3_5Config(text_config=text | TIED, vision_config=PATCH16, **_ids(tokenizer), **TIED)


CONFIGS = dict(zip(FAMILIES, (_qwen2_vl, _qwen2_5_vl, _qwen3_vl, _qwen3_5), strict=True))
