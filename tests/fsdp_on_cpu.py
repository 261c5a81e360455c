"""Lets accelerate take its FSDP2 path on a CPU (gloo), which it leaves to GPUs; what it then runs is its own code.

Read by the witness of launching.py before an entry starts, in each process.
"""

from typing import Any

import torch.distributed.checkpoint.state_dict as gathered
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.fsdp import FSDPModule
from torch.utils._pytree import tree_map_only

from rbft_trl import engines

engines._fsdp_engine = lambda **_: "FSDP2"  # refuses a CPU else
begin = AcceleratorState.__init__


def with_fsdp(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
    """As on GPUs: the type becomes FSDP, and the plugin that the launch file describes is kept."""
    begin(self, *args, **kwargs)
    if plugin := kwargs.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin"):
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin


def layers_of(model: Any) -> list[str]:
    """Class names of the modules that were sharded on their own."""
    return sorted({type(m).__name__.removeprefix("FSDP") for m in model.modules() if isinstance(m, FSDPModule)})


def arrived(function: Any) -> Any:
    """Waits for gathered weights; on a GPU the copy to the CPU does that."""
    return lambda *args, **kwargs: tree_map_only(AsyncCollectiveTensor, lambda t: t.wait(), function(*args, **kwargs))


AcceleratorState.__init__ = with_fsdp
for name in ("get_model_state_dict", "get_optimizer_state_dict"):
    setattr(gathered, name, arrived(getattr(gathered, name)))
