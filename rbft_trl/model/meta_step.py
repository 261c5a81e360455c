"""One step of the real model without contents, counted: what a layer keeps for its backward is what autograd keeps.

Input: a model on the meta device and the sizes of a batch. Output: live bytes at the peak by kind, and FLOPs.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from rbft_trl.model.inference import LabelTrie, Prefill, score_labels
from rbft_trl.model.ledger import Kernels, Ledger

HEAD_ROWS, HEAD_COLUMNS = 4096, 32768  # the tile of logits that TRL 1.16 builds at a time


@dataclass(frozen=True)
class Clip:
    """The sizes of one row.

    Args:
        grid (`tuple[int, int, int]`): Patches of the clip in time, height and width.
        text (`int`): Tokens of text, the answer included.
        answer (`int`, *optional*, defaults to 1): Trained tokens.
    """

    grid: tuple[int, int, int]
    text: int
    answer: int = 1

    def tokens(self, merge: int) -> int:
        """Tokens of clip and text; `merge` by `merge` patches become one token."""
        return self.grid[0] * self.grid[1] * self.grid[2] // merge**2 + self.text


@dataclass
class Counted:
    """What one step needs.

    Args:
        bytes (`dict[str, int]`): Live bytes at the peak, beside the weights: inputs, activations, head, gradients.
        flops (`int`): Operations of matrix products, convolutions and attention, recomputation included.
        head (`int`): The most that the head holds at any time: its tile of logits.
        cache (`int`): Bytes of keys and values after a prefill.
    """

    bytes: dict[str, int]
    flops: int
    head: int = 0
    cache: int = 0

    @property
    def peak(self) -> int:
        """All live bytes at the peak, weights and optimizer aside."""
        return sum(self.bytes.values())


class Head(torch.autograd.Function):
    """TRL's fused LM head by what it allocates: one tile of logits at a time, made again in the backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, torch_tiles: bool, ledger: Ledger
    ) -> torch.Tensor:
        """Log-probabilities `[N]`."""
        ctx.save_for_backward(hidden, weight)
        ctx.torch_tiles, ctx.ledger = torch_tiles, ledger
        with ledger.as_kind("head"):
            _tiles(hidden, weight, each=3 if torch_tiles else 0)
        return hidden.new_empty(len(hidden), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        """Gradients of hidden states, accumulated in fp32, and of the weight where it is trained."""
        hidden, weight = ctx.saved_tensors
        inwards = hidden.new_empty(hidden.shape, dtype=torch.float32)
        own = weight.new_empty(weight.shape, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        with ctx.ledger.as_kind("head"):
            _tiles(hidden, weight, each=7 if ctx.torch_tiles else 0, products=2 if own is None else 3)
        return inwards.to(hidden.dtype), None if own is None else own.to(weight.dtype), None, None


def _tiles(hidden: torch.Tensor, weight: torch.Tensor, *, each: int, products: int = 1) -> None:
    """The buffer of logits (on a CPU also `each` fp32 copies of it), and the products over rows x vocabulary."""
    rows, vocabulary = min(len(hidden), HEAD_ROWS), len(weight)
    buffer = hidden.new_empty(rows, HEAD_COLUMNS)
    copies = [buffer.new_empty(rows, min(HEAD_COLUMNS, vocabulary), dtype=torch.float32) for _ in range(each)]
    for start in range(0, vocabulary, HEAD_COLUMNS):
        part = weight[start : start + HEAD_COLUMNS].to(hidden.dtype)
        for _ in range(products * -(-len(hidden) // HEAD_ROWS)):
            torch.mm(hidden[:rows], part.t(), out=buffer[:, : len(part)])
    del buffer, copies


@dataclass
class MetaBatch:
    """A batch for a model on the meta device: pixels without contents; ids, grids and positions with theirs."""

    clips: Sequence[Clip]

    def inputs(self, model: PreTrainedModel, *, left: bool = False, masked: bool = True) -> dict[str, torch.Tensor]:
        """What the model's forward takes; flash attention sees no padding, so no mask is made (`masked=False`)."""
        config, vision = model.config, model.config.vision_config
        tokens = [t * h * w // vision.spatial_merge_size**2 for t, h, w in (clip.grid for clip in self.clips)]
        lengths = [video + clip.text for video, clip in zip(tokens, self.clips, strict=True)]
        ids = torch.zeros(len(self.clips), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (video, length) in enumerate(zip(tokens, lengths, strict=True)):
            start = max(lengths) - length if left else 0
            mask[row, start : start + length] = 1
            ids[row, start : start + video] = config.video_token_id
        if not masked:
            mask = torch.ones_like(ids)
        patches = sum(t * h * w for t, h, w in (clip.grid for clip in self.clips))
        width = getattr(vision, "in_channels", 3) * vision.temporal_patch_size * vision.patch_size**2
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[None].expand(3, -1, -1),
            "pixel_values_videos": torch.empty(patches, width, device="meta"),
            "video_grid_thw": torch.tensor([clip.grid for clip in self.clips]),
        }


def count_training(
    model: nn.Module,
    clips: Sequence[Clip],
    *,
    device: str,
    autocast: bool,
    recompute: bool,
    held: int = 1,
    accumulated: bool = False,
    masked: bool = True,
) -> Counted:
    """One micro-batch of training: forward, TRL's head, backward.

    Args:
        model (`nn.Module`): On the meta device, marked as it is trained.
        clips (`Sequence[Clip]`): The rows of the batch.
        device (`str`): `cuda` or `cpu`: whose kernels are counted.
        autocast (`bool`): Whether the trainer computes in bf16 (`bf16: true`).
        recompute (`bool`): Whether `activation_checkpointing` is on.
        held (`int`, *optional*, defaults to 1): Batches that wait on the device: the trainer fetches all micro-batches
            of a step first.
        accumulated (`bool`, *optional*, defaults to `False`): Whether gradients of an earlier micro-batch are there.
        masked (`bool`, *optional*, defaults to `True`): Whether attention is given a mask where rows are padded.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.train()

    def step(ledger: Ledger, kernels: Kernels) -> None:
        if recompute:
            options = {"use_reentrant": False, "context_fn": lambda: (contextlib.nullcontext(), kernels.again())}
            inner.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        trained = [p for p in model.parameters() if p.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(lambda p: ledger.move(p.grad, "gradients")) for p in trained]
        with ledger.as_kind("inputs"):
            waiting = [MetaBatch(clips).inputs(inner, masked=masked) for _ in range(held)]
        if accumulated:
            with ledger.as_kind("gradients"):
                for parameter in trained:
                    parameter.grad = torch.empty_like(parameter)
        hidden = inner.model(**waiting[0], use_cache=False).last_hidden_state
        rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
        if device == "cuda":
            rows = rows[: sum(clip.answer for clip in clips)].clone()
        loss = Head.apply(rows, inner.get_output_embeddings().weight, device == "cpu", ledger).sum()
        kernels.copies.clear()
        del hidden, rows
        loss.backward()
        for hook in hooks:
            hook.remove()
        model.zero_grad()
        inner.activation_checkpointing_disable()

    return _counted(model, step, device=device, autocast=autocast)


def count_reading(
    model: nn.Module, clips: Sequence[Clip], trie: LabelTrie | None, *, device: str, masked: bool = True
) -> Counted:
    """One prefill, every hidden state kept, and the scores of all labels from it by `score_labels` itself.

    Args:
        model (`nn.Module`): On the meta device.
        clips (`Sequence[Clip]`): The rows of the batch.
        trie (`LabelTrie`, *optional*): The labels; None if nothing is scored.
        device (`str`): `cuda` or `cpu`: whose kernels are counted.
        masked (`bool`, *optional*, defaults to `True`): Whether attention is given a mask where rows are padded.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.eval()

    @torch.no_grad()
    def step(ledger: Ledger, _: Kernels) -> int:
        with ledger.as_kind("inputs"):
            inputs = MetaBatch(clips).inputs(inner, left=True, masked=masked)
        out = inner(**inputs, use_cache=True, logits_to_keep=1, output_hidden_states=True)  # as `prefill` does
        last = out.hidden_states[-1].float()
        features = torch.cat([last[:, -1], (last * last.new_empty(*last.shape[:2], 1)).sum(1)], dim=-1)
        cache, logits = out.past_key_values, out.logits[:, -1].float()
        del out, last
        held = [value for layer in cache.layers for value in vars(layer).values()]
        size = sum(t.untyped_storage().nbytes() for t in tree_leaves(held) if isinstance(t, torch.Tensor))
        if trie is not None:
            mask, position = inputs["attention_mask"], inputs["position_ids"][..., -1:] + 1
            score_labels(inner, Prefill(cache, logits, features, mask, position), trie)
        return size

    return _counted(model, step, device=device, autocast=False)


def _counted(model: nn.Module, step: Callable[[Ledger, Kernels], Any], *, device: str, autocast: bool) -> Counted:
    kernels = Kernels(device=device, autocast=autocast)
    with Ledger([*model.parameters(), *model.buffers()]) as ledger, kernels:
        cache = step(ledger, kernels)
    return Counted(ledger.at_peak, ledger.flops, ledger.most["head"], cache or 0)
