"""One step of the real model on tensors that have sizes but no contents (the meta device), counted byte by byte.

Input: a model on the meta device and the sizes of a batch. Output: live bytes at the peak by kind, and FLOPs. No formula
of a family stands here: what a layer keeps for its backward is what autograd keeps when it runs.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry, sdpa_flop
from transformers import PreTrainedModel

aten = torch.ops.aten
HEAD_ROWS, HEAD_COLUMNS = 4096, 32768  # the tile of logits that TRL 1.16 builds at a time
LOWERED = {"linear", "matmul", "__matmul__", "bmm", "baddbmm", "conv1d", "conv3d", "einsum"}  # autocast: to bf16
RAISED = {"layer_norm", "pow", "rsqrt", "softmax", "log_softmax", "cumsum", "norm", "softplus", "exp"}  # to fp32


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


@dataclass
class Counted:
    """What one step needs.

    Args:
        bytes (`dict[str, int]`): Live bytes at the peak, beside the weights: inputs, activations, head, gradients.
        flops (`int`): Floating point operations of matrix products, convolutions and attention, recomputation included.
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


class Ledger(TorchDispatchMode):
    """Follows every storage from its first operation to its end. Small tensors of numbers and masks keep their
    contents on the CPU, so that positions can be read; beside tensors without contents they lose them."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        self.at_peak: dict[str, int] = {}
        self.most: Counter[str] = Counter()
        self.flops, self.kind = 0, "activations"
        self.entries: dict[int, list[Any]] = {t.untyped_storage()._cdata: [0, "weights"] for t in known}

    @contextlib.contextmanager
    def as_kind(self, kind: str) -> Iterator[None]:
        """What is made inside counts as `kind`."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def add(self, tensor: torch.Tensor) -> None:
        """Counts the tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.entries:
            self.entries[key] = [storage.nbytes(), self.kind]
            self.live[self.kind] += storage.nbytes()
            self.most[self.kind] = max(self.most[self.kind], self.live[self.kind])
            weakref.finalize(storage, self.drop, key)
            if self.live.total() > sum(self.at_peak.values()):
                self.at_peak = dict(self.live)

    def drop(self, key: int) -> None:
        """A storage has ended."""
        size, kind = self.entries.pop(key)
        self.live[kind] -= size

    def move(self, tensor: torch.Tensor, kind: str) -> None:
        """A storage turns out to be of another kind, as a gradient when it reaches its parameter."""
        entry = self.entries[tensor.untyped_storage()._cdata]
        self.live[entry[1]] -= entry[0]
        self.live[kind] += entry[0]
        entry[1] = kind

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is aten._to_copy.default and _is_small(args[0]) and _is_meta(kwargs.get("device")):
            kwargs.pop("device")
        elif any(t.is_meta for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)):
            if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
                args = (args[0], _as_numbers(args[1]), *args[2:])
            args, kwargs = tree_map(_without_contents, (args, kwargs))
        out = func(*args, **kwargs)
        if func._overloadpacket in FLOPS:
            self.flops += FLOPS[func._overloadpacket](*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return out


FLOPS = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda *args, out_val=None, **_: sdpa_flop(*args[:3]),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *args, out_val=None, **_: (
        5 * sdpa_flop(*args[1:4]) // 2
    ),
}


def _is_small(tensor: torch.Tensor) -> bool:
    return not tensor.is_meta and not tensor.is_floating_point()


def _is_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"


def _as_numbers(indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Masks with contents as numbers of their places: how many there are decides the size of the result."""
    out: list[torch.Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not index.is_meta:
            out += index.nonzero(as_tuple=True)
        else:
            out.append(index)
    return out


def _without_contents(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor) and not leaf.is_meta and leaf.dim() > 0:
        return leaf.to("meta")
    return leaf


class Kernels(TorchFunctionMode):
    """What a GPU or CPU does where the meta device has no opinion: autocast, and the kernels of sdpa attention."""

    def __init__(self, *, device: str, autocast: bool) -> None:
        super().__init__()
        self.device, self.autocast = device, autocast
        self.copies: dict[int, torch.Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self.attention(*args, **kwargs)
        if self.autocast and (name in LOWERED or (name in RAISED and self.device == "cuda")):
            dtype = torch.bfloat16 if name in LOWERED else torch.float32
            args, kwargs = tree_map(lambda leaf: self.cast(leaf, dtype), (args, kwargs))
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """While a layer is recomputed: autograd runs it with no mode for functions."""
        with self:
            yield
        self.copies.clear()

    def cast(self, leaf: Any, dtype: torch.dtype) -> Any:
        """A floating tensor in `dtype`; the copy of a trained parameter is kept until the forward ends."""
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point() or leaf.dtype == dtype:
            return leaf
        if leaf.is_leaf and leaf.requires_grad and dtype == torch.bfloat16 and torch.is_grad_enabled():
            return self.copies.setdefault(id(leaf), leaf.to(dtype))
        return leaf.to(dtype)

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """The kernel that sdpa picks: flash without a mask, memory-efficient with one, their twin on a CPU."""
        if self.autocast:
            query, key, value = (self.cast(t, torch.bfloat16) for t in (query, key, value))
        if self.device == "cpu":
            bias = None if attn_mask is None else attn_mask.to(query.dtype)
            kernel = aten._scaled_dot_product_flash_attention_for_cpu
            return kernel(query, key, value, dropout_p, is_causal, attn_mask=bias, scale=scale)[0]
        if attn_mask is None:
            return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
        shape = (*query.shape[:2], query.shape[2], key.shape[2])
        bias = attn_mask.to(query.dtype).to(query.device).expand(shape)
        keep = torch.is_grad_enabled() and query.requires_grad
        kernel = aten._scaled_dot_product_efficient_attention
        return kernel(query, key, value, bias, keep, dropout_p, is_causal, scale=scale)[0]


class Head(torch.autograd.Function):
    """TRL's fused LM head by what it allocates: one tile of logits at a time, made again in the backward."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, torch_tiles: bool) -> torch.Tensor:
        """Log-probabilities `[N]`."""
        ctx.save_for_backward(hidden, weight)
        ctx.torch_tiles = torch_tiles
        _tiles(hidden, weight, each=3 if torch_tiles else 0)
        return hidden.new_empty(len(hidden), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Gradients of hidden states, accumulated in fp32, and of the weight where it is trained."""
        hidden, weight = ctx.saved_tensors
        inwards = hidden.new_empty(hidden.shape, dtype=torch.float32)
        own = weight.new_empty(weight.shape, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        _tiles(hidden, weight, each=7 if ctx.torch_tiles else 0, products=2 if own is None else 3)
        return inwards.to(hidden.dtype), None if own is None else own.to(weight.dtype), None


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

    def inputs(self, model: PreTrainedModel, *, left: bool = False) -> dict[str, torch.Tensor]:
        """What the model's forward takes."""
        config, vision = model.config, model.config.vision_config
        tokens = [t * h * w // vision.spatial_merge_size**2 for t, h, w in (clip.grid for clip in self.clips)]
        lengths = [video + clip.text for video, clip in zip(tokens, self.clips, strict=True)]
        ids = torch.zeros(len(self.clips), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (video, length) in enumerate(zip(tokens, lengths, strict=True)):
            start = max(lengths) - length if left else 0
            mask[row, start : start + length] = 1
            ids[row, start : start + video] = config.video_token_id
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
    model: nn.Module, clips: Sequence[Clip], *, device: str, autocast: bool, recompute: bool, held: int = 1, accumulated: bool = False
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
            waiting = [MetaBatch(clips).inputs(inner) for _ in range(held)]
        if accumulated:
            with ledger.as_kind("gradients"):
                for parameter in trained:
                    parameter.grad = torch.empty_like(parameter)
        hidden = inner.model(**waiting[0], use_cache=False).last_hidden_state
        rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
        if device == "cuda":
            rows = rows[: sum(clip.answer for clip in clips)].clone()
        with ledger.as_kind("head"):
            loss = Head.apply(rows, inner.get_output_embeddings().weight, device == "cpu").sum()
            kernels.copies.clear()
        del hidden, rows
        loss.backward()
        for hook in hooks:
            hook.remove()
        model.zero_grad()
        inner.activation_checkpointing_disable()

    return _counted(model, step, device=device, autocast=autocast)


def count_prefill(model: nn.Module, clips: Sequence[Clip], *, device: str) -> Counted:
    """One prefill as `rbft_trl.model.inference.prefill` runs it: no gradients, every hidden state kept."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.eval()

    @torch.no_grad()
    def step(ledger: Ledger, kernels: Kernels) -> int:
        with ledger.as_kind("inputs"):
            inputs = MetaBatch(clips).inputs(inner, left=True)
        out = inner(**inputs, use_cache=True, logits_to_keep=1, output_hidden_states=True)
        held = [value for layer in out.past_key_values.layers for value in vars(layer).values()]
        return sum(t.untyped_storage().nbytes() for t in tree_leaves(held) if isinstance(t, torch.Tensor))

    return _counted(model, step, device=device, autocast=False)


def _counted(model: nn.Module, step: Callable[[Ledger, Kernels], Any], *, device: str, autocast: bool) -> Counted:
    kernels = Kernels(device=device, autocast=autocast)
    with Ledger([*model.parameters(), *model.buffers()]) as ledger, kernels:
        cache = step(ledger, kernels)
    return Counted(ledger.at_peak, ledger.flops, ledger.most["head"], cache or 0)
