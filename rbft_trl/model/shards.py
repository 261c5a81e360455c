"""Parameters of which this process holds a part only, as ZeRO-3 and FSDP2 leave them.

Input: a parameter, or a model. Output: its true size, the values that lie here.
"""

import torch
from accelerate.utils import gather_object
from torch import nn


def size_of(parameter: nn.Parameter) -> int:
    """Number of weights of the whole parameter: packed 4-bit weights and other processes' parts counted too."""
    if getattr(parameter, "quant_state", None):
        return parameter.quant_state.shape.numel()
    return getattr(parameter, "ds_numel", parameter.numel())


def values_here(parameter: nn.Parameter) -> torch.Tensor:
    """The values of a parameter that this process holds; under ZeRO-3 the parameter itself is empty."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def not_finite(parameters: list[tuple[str, nn.Parameter]]) -> list[str]:
    """Names of the parameters that hold NaN or infinity on any process; every process gets the same answer."""
    return gather_object([name for name, parameter in parameters if not values_here(parameter).isfinite().all()])
