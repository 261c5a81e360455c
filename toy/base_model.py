"""The small base before it has learned anything: a true Qwen2-VL with processor, tokenizer and chat template.

Output: model and processor objects that `save_pretrained` writes and `from_pretrained` reads.
"""

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Qwen2TokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from toy.corpus import TASKS, draw_example
from toy.scenes import SIDE, draw_scene

PATCH, MERGE, TEMPORAL = 14, 2, 2
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
# The conversation layout of Qwen2-VL: turns between im_start and im_end, a clip between vision_start and vision_end.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- elif part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def make_processor(*, vocabulary: int = 640, seed: int = 0) -> Qwen2VLProcessor:
    """A byte-level BPE trained on the pretraining texts, in a processor whose frames are 56 x 56 pixels."""
    rng = np.random.default_rng(seed)
    texts = ["system\nuser\nassistant\n"]
    for i in range(4000):
        example = draw_example(rng, draw_scene(rng), TASKS[i % len(TASKS)])
        texts += [example.prompt, example.answer]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
        ),
    )
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL[1:]
    )
    shapes = {"patch_size": PATCH, "temporal_patch_size": TEMPORAL, "merge_size": MERGE}
    pixels = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE * 32}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shapes, size=pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shapes, size=pixels),
        chat_template=CHAT_TEMPLATE,
    )


def make_model(
    processor: Qwen2VLProcessor, *, width: int = 128, depth: int = 4, tower_depth: int = 3, seed: int = 0
) -> Qwen2VLForConditionalGeneration:
    """Random weights of about 2 million parameters (with the default sizes)."""
    torch.manual_seed(seed)
    token = processor.tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(processor.tokenizer), "hidden_size": width, "intermediate_size": 3 * width,
        "num_hidden_layers": depth, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": _sections(width // 8)},
        "max_position_embeddings": 2048, "tie_word_embeddings": True, "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>"), "initializer_range": 0.05,
    }  # fmt: skip
    vision = {
        "depth": tower_depth, "embed_dim": width, "hidden_size": width, "num_heads": 4, "mlp_ratio": 3,
        "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": TEMPORAL, "in_channels": 3,
        "initializer_range": 0.05,
    }  # fmt: skip
    config = Qwen2VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
        attn_implementation="sdpa",
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model


def _sections(half: int) -> list[int]:
    """How the rotary half-dimensions are shared by time, height and width, as 1 : 1.5 : 1.5 in Qwen2-VL."""
    time = half // 4
    return [time, (half - time) // 2, half - time - (half - time) // 2]


def patchify(frames: np.ndarray, processor: Qwen2VLProcessor) -> torch.Tensor:
    """uint8 `[B, T, H, W, 3]` → float32 `[B * patches, C * 2 * 14 * 14]`, as the video processor lays them out.

    Pretraining reads hundreds of thousands of clips; the processor itself takes milliseconds for each.
    """
    video = processor.video_processor
    mean = torch.tensor(video.image_mean, dtype=torch.float32)
    std = torch.tensor(video.image_std, dtype=torch.float32)
    pixels = (torch.from_numpy(frames).float() / 255 - mean) / std
    clips, length, height, width, channels = pixels.shape
    pixels = pixels.permute(0, 1, 4, 2, 3).reshape(
        clips, length // TEMPORAL, TEMPORAL, channels,
        height // PATCH // MERGE, MERGE, PATCH, width // PATCH // MERGE, MERGE, PATCH,
    )  # fmt: skip
    patches = pixels.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return patches.reshape(-1, channels * TEMPORAL * PATCH * PATCH)
