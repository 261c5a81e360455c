"""The ten published bases as instances without weights: parameters by part, layers to wrap, what stays out of 4 bit.

The numbers are pinned: a rename or another layout in a new version of transformers is seen here first.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.quantizers.quantizers_utils import should_convert_module

from rbft_trl.errors import UserError
from rbft_trl.model.families import (
    NOT_IN_4BIT,
    PUBLISHED,
    has_linear_attention,
    part_of,
    published_config,
)
from rbft_trl.model.loading import load_base
from tests.helpers import REPOSITORY, base_arguments
from tests.tiny_families import layers_to_wrap

# Parameters of language model, mergers and tower.
PARAMETERS = {
    "Qwen2-VL-2B-Instruct": (1_543_714_304, 34_087_936, 631_183_360),
    "Qwen2-VL-7B-Instruct": (7_615_616_512, 44_575_744, 631_183_360),
    "Qwen2.5-VL-3B-Instruct": (3_085_938_688, 36_708_608, 631_975_680),
    "Qwen2.5-VL-7B-Instruct": (7_615_616_512, 44_574_464, 631_975_680),
    "Qwen3-VL-4B-Instruct": (4_022_468_096, 109_105_152, 306_242_560),
    "Qwen3-VL-8B-Instruct": (8_190_735_360, 160_496_896, 415_891_440),
    "Qwen3.5-0.8B": (752_393_024, 12_588_544, 88_004_352),
    "Qwen3.5-2B": (1_881_825_088, 25_174_016, 306_242_560),
    "Qwen3.5-4B": (4_205_751_296, 27_271_680, 306_242_560),
    "Qwen3.5-9B": (8_953_803_264, 40_119_040, 415_891_440),
}
LAYERS = {
    "Qwen2-VL": ["Qwen2VLDecoderLayer", "Qwen2VLVisionBlock"],
    "Qwen2.5-VL": ["Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"],
    "Qwen3-VL": ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"],
    "Qwen3.5": ["Qwen3_5DecoderLayer", "Qwen3_5VisionBlock"],
}


def without_weights(name: str) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(published_config(f"Qwen/{name}"))


def drafting_head(model: PreTrainedModel) -> int:
    """Parameters of the head for several tokens at once, which is on the Hub and which transformers leaves out: one
    attention layer, a projection of two hidden states to one, three norms."""
    width, layers = model.config.text_config.hidden_size, model.model.language_model.layers
    return sum(p.numel() for p in layers[3].parameters()) + 2 * width**2 + 3 * width


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_published_base_without_weights(name: str) -> None:
    model, family = without_weights(name), name.rsplit("-", 1 if name.startswith("Qwen3.5") else 2)[0]
    found = {"llm": 0, "merger": 0, "vision": 0}
    for parameter, value in model.named_parameters():
        found[part_of(parameter)] += value.numel()
    assert tuple(found.values()) == PARAMETERS[name]
    on_the_hub = json.loads((PUBLISHED / f"{name}.json").read_text())["parameters_on_the_hub"]
    linear = has_linear_attention(model.config)
    assert linear == (family == "Qwen3.5") and sum(found.values()) + linear * drafting_head(model) == on_the_hub
    assert layers_to_wrap(model) == LAYERS[family]
    for module, kind in model.named_modules():
        if isinstance(kind, nn.Linear):
            kept = not should_convert_module(module, NOT_IN_4BIT)
            gate = module.endswith(("linear_attn.in_proj_a", "linear_attn.in_proj_b"))
            assert kept == (part_of(module) != "llm" or module == "lm_head" or gate), module


def test_the_docs_name_the_layers_that_fsdp_wraps() -> None:
    page = (REPOSITORY / "docs/families.md").read_text(encoding="utf-8")
    assert all(f"| {family} | `{','.join(layers)}` |" in page for family, layers in LAYERS.items())


def test_every_published_file_is_pinned_and_names_its_source() -> None:
    files = {path.stem: json.loads(path.read_text()) for path in PUBLISHED.glob("*.json")}
    assert files.keys() == PARAMETERS.keys()
    assert all(file["source"] == f"https://huggingface.co/Qwen/{n}/blob/main/config.json" for n, file in files.items())


def test_a_base_whose_configuration_is_not_shipped_is_named() -> None:
    with pytest.raises(UserError, match=r"'Qwen/Qwen2-VL-72B-Instruct' is not shipped; known are Qwen/Qwen2-VL-2B"):
        published_config("Qwen/Qwen2-VL-72B-Instruct")


def test_a_sibling_that_reads_text_alone_is_refused(tmp_path: Path) -> None:
    published_config("Qwen/Qwen3.5-0.8B").text_config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no model could be loaded from"):
        load_base(base_arguments(tmp_path), device="cpu")
