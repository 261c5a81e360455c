"""Tensors that have sizes but no contents (the meta device): every storage followed, and the kernels of a real device.

Input: operations that run inside the two modes. Output: live bytes at the peak by kind, and FLOPs.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry, sdpa_flop

aten = torch.ops.aten
LOWERED = {"linear", "matmul", "__matmul__", "bmm", "baddbmm", "conv1d", "conv3d", "einsum"}  # autocast: to bf16
RAISED = {"layer_norm", "pow", "rsqrt", "softmax", "log_softmax", "cumsum", "norm", "softplus", "exp"}  # to fp32


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
