"""`--freeze`: parts of a network that keep the weights they start from.

What belongs to a class that the starting weights did not have (vecset/weights/more_classes.py) is learned all the same,
also in a part that is kept.
"""

from collections.abc import Sequence

import torch

from vecset.common.errors import InputError
from vecset.weights.more_classes import of_classes
from vecset.weights.parts import PARTS


def part_of(name: str) -> str:
    """The part that a parameter belongs to."""
    for part, begins in PARTS.items():
        if name.split(".")[0] in begins:
            return part
    raise ValueError(f"{name} is of no part")


class Frozen:
    """Keeps the `parts` (of `PARTS`) of a network as they are, but for what belongs to `new_classes` (from 0) alone.
    Make it before the optimizer, and `attach` it to that."""

    def __init__(self, model: torch.nn.Module, parts: Sequence[str], new_classes: Sequence[int] = ()):
        self.kept = []  # (parameter, where it may change)
        for name, parameter in model.named_parameters():
            if part_of(name) not in parts:
                continue
            free = of_classes(model, name, new_classes) if len(new_classes) else None
            if free is None:
                parameter.requires_grad_(False)
            else:
                parameter.register_hook(lambda gradient, free=free: gradient * free)
                self.kept.append((parameter, free))
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError.because("--freeze", "nothing is left to train", "leave out a part")

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on a step of it leaves alone what is kept: weight decay moves also what has no gradient."""
        if not self.kept:
            return
        before = []

        def remember(*_):
            before[:] = [parameter.detach().clone() for parameter, _ in self.kept]

        @torch.no_grad()
        def restore(*_):
            for (parameter, free), values in zip(self.kept, before):
                parameter.copy_(torch.where(free, parameter, values))

        optimizer.register_step_pre_hook(remember)
        optimizer.register_step_post_hook(restore)
