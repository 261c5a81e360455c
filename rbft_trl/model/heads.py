"""Sparse attention vectors (SAVs, arXiv 2412.00142): the few attention heads that tell the classes apart best, voting.

Input: labelled training clips. Output: a function from clips to label log-probabilities `[B, C]`; nothing is trained.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedConfig

from rbft_trl.data.video import Clip
from rbft_trl.model.collator import ClipCollator, Row
from rbft_trl.model.families import part_of
from rbft_trl.model.inference import prefill
from rbft_trl.model.probe import features_of

KEPT = 20  # heads, as in the paper


def number_of_heads(config: PreTrainedConfig) -> int:
    """Attention heads of a language model; layers of linear attention have none."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return config.num_attention_heads * sum(kind != "linear_attention" for kind in kinds)


@contextmanager
def watched(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """A list that a forward fills with the last token's output of all heads, before they are mixed by `o_proj`.

    One tensor `[B, heads, width]` per layer; layers of linear attention have no `o_proj` and are left out.
    """
    seen: list[torch.Tensor] = []
    heads = model.config.get_text_config().num_attention_heads

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0][:, -1].unflatten(-1, (heads, -1)).float())

    mixers = [m for name, m in model.named_modules() if name.endswith("self_attn.o_proj") and part_of(name) == "llm"]
    hooks = [mixer.register_forward_pre_hook(keep) for mixer in mixers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def read_heads(
    model: nn.Module, collator: ClipCollator, rows: Sequence[Row], clips: Sequence[Clip] | None = None
) -> torch.Tensor:
    """Outputs of all heads at the last token of the label prompt, float32 `[B, layers x heads, width]`."""
    prompts = [collator.label_prompt(row) for row in rows]
    with watched(model) as seen:
        prefill(model, collator.prompts(rows, prompts, clips=clips))
    return torch.cat([layer.cpu() for layer in seen], dim=1)


def fit_heads(
    accelerator: Accelerator,
    model: nn.Module,
    collator: ClipCollator,
    rows: list[Row],
    batch_size: int,
    *,
    keep: int | None = None,
) -> Callable[[Sequence[Row], Sequence[Clip]], torch.Tensor]:
    """Chooses the heads on the labelled training clips, at least two per class, each read once.

    Args:
        keep (`int`, *optional*): Number of heads; 20 if left out, or all of a model that has fewer.
    """
    names = collator.card.names
    ordered, outputs = features_of(accelerator, rows, lambda batch: read_heads(model, collator, batch), batch_size)
    labels = np.array([names.index(row["label"]) for row in ordered])
    best = best_heads(outputs, labels, len(names))[: keep or KEPT]
    means = class_means(outputs[:, best], labels, len(names))

    def logprobs(batch: Sequence[Row], clips: Sequence[Clip]) -> torch.Tensor:
        return torch.from_numpy(vote(read_heads(model, collator, batch, clips).numpy()[:, best], means))

    return logprobs


def class_means(outputs: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """From outputs `[N, heads, width]` to `[C, heads, width]`."""
    return np.stack([outputs[labels == c].mean(0) for c in range(classes)])


def cosines(outputs: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Of every clip and class mean, per head: from `[N, heads, width]` and `[C, heads, width]` to `[N, C, heads]`."""
    product = np.einsum("nhw,chw->nch", outputs, means)
    lengths = np.linalg.norm(outputs, axis=-1)[:, None] * np.linalg.norm(means, axis=-1)
    return product / np.maximum(lengths, 1e-12)


def best_heads(outputs: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Heads by the number of training clips whose class mean is the nearest, the clip itself left out of its mean.

    Returns:
        `np.ndarray` int64 `[heads]`: the best first; of equals the one in the earlier layer.
    """
    near = cosines(outputs, class_means(outputs, labels, classes))
    for c in range(classes):
        own = outputs[labels == c]
        without = (own.sum(0) - own) / (len(own) - 1)
        near[labels == c, c] = [cosines(a[None], b[None])[0, 0] for a, b in zip(own, without, strict=True)]
    right = (near.argmax(1) == labels[:, None]).sum(0)
    return np.argsort(-right, kind="stable")


def vote(outputs: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Log-probabilities `[N, C]`: every head votes for its nearest class mean.

    Each class begins with (1 + its mean cosine) / 2 votes, at most one: Laplace's rule, so that none has a share of
    zero, and among classes with equal votes the nearer one wins.
    """
    near = cosines(outputs, means)
    votes = (near.argmax(1)[:, None] == np.arange(len(means))[:, None]).sum(-1)
    total = votes + np.maximum((1 + near.mean(-1)) / 2, 1e-6)
    return np.log(total / total.sum(-1, keepdims=True))
