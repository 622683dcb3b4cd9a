"""Operations counted one by one, by PyTorch's own formulas for its products."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class OperationCounter(TorchDispatchMode):
    """`with OperationCounter() as counter: ...`, then `counter.total`. torch.utils.flop_counter.FlopCounterMode does
    the same, but stops at autograd.grad inside a forward pass, and leaves out products that are added in place.
    Attention is counted where it is written out: attention.fused_attention has to be plain_attention."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function._overloadpacket.__name__.rstrip("_")
        count = flop_registry.get(getattr(torch.ops.aten, name, None))
        if count:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out
