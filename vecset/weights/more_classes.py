"""Weights of a network for named classes, as those of a network that has these classes, in any order, and others.

What belongs to a class moves to its place by name. What belongs to a new one is zero but for its output: a logit or a
distance at which it is chosen nowhere. So the first network's distances and logits stay as they were, and its label
maps too, until the new classes are learned.
"""

from collections.abc import Sequence

import torch

NEW_LOGIT = (
    -10.0
)  # of a class that is not learned yet: below any that a trained network gives the class that it chooses
NEW_DISTANCE = 1.0  # unit: likewise, where the class of the smallest distance is chosen


def with_classes(
    state: dict[str, torch.Tensor], theirs: Sequence[str], ours: Sequence[str], model: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """`state` of a network for the classes `theirs` as a state of `model`, which has the classes `ours`: all of theirs
    and perhaps more."""
    place, state = [list(ours).index(name) for name in theirs], dict(state)
    for name, parts in class_parts(model).items():
        if name not in state:
            continue
        old, new = state[name], model.state_dict()[name].clone()
        axis, first = parts.axis, new.shape[parts.axis] - parts.blocks * len(ours)
        index = [*range(first), *(first + b * len(ours) + c for b in range(parts.blocks) for c in place)]
        if parts.fill is not None:
            for b, value in enumerate(parts.fill):
                new.narrow(axis, first + b * len(ours), len(ours)).fill_(value)
        state[name] = new.index_copy_(axis, torch.tensor(index, device=new.device), old.to(new))
    state["known_classes"] = model.known_classes
    return state


class ClassParts:
    """Where a tensor holds something of every class: along `axis`, after what belongs to none, in so many `blocks` of
    C. fill: the value of a new class in each block; None: as the model was made."""

    def __init__(self, axis: int, blocks: int = 1, fill: tuple[float, ...] | None = (0.0,)):
        self.axis, self.blocks, self.fill = axis, blocks, fill


def class_parts(model: torch.nn.Module) -> dict[str, ClassParts]:
    """{name of a parameter: where it holds something of every class}."""
    C = model.num_classes
    found = {"point_embed.mlp.weight": ClassParts(1)}
    if model.told_states:
        found["state_embed"] = ClassParts(0)
    if hasattr(model, "class_embed"):  # a field per class: an embedding of zeros would be no class's
        found["class_embed.weight"] = ClassParts(0, fill=None)
    if model.proposed_distances is not None:
        found["proposed_distances.tell.0.weight"] = ClassParts(1, 2)
    blocks = (len(model.to_outputs[1].bias) - 1) // C
    if blocks:
        new = {"logits": (NEW_LOGIT,), "distances": (NEW_DISTANCE,), "both": (NEW_LOGIT, NEW_DISTANCE)}
        found["to_outputs.1.weight"] = ClassParts(0, blocks, (0.0,) * blocks)
        found["to_outputs.1.bias"] = ClassParts(0, blocks, new[model.class_outputs])
    return found


def of_classes(model: torch.nn.Module, name: str, classes: Sequence[int]) -> torch.Tensor | None:
    """(shape of the parameter `name`) bool: where it holds what belongs to `classes` (from 0) alone; None where it
    holds nothing of a class."""
    parts = class_parts(model).get(name)
    if parts is None:
        return None
    value, C = dict(model.named_parameters())[name], model.num_classes
    first = value.shape[parts.axis] - parts.blocks * C
    mask = torch.zeros(value.shape[parts.axis], dtype=torch.bool, device=value.device)
    mask[[first + b * C + c for b in range(parts.blocks) for c in classes]] = True
    shape = [1] * value.ndim
    shape[parts.axis] = -1
    return mask.view(shape).expand_as(value)
