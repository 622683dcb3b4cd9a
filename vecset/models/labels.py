"""The label of a point: background where the signed distance is not negative, else the class of the largest logit."""

import torch

LOGIT_UNIT = 0.01  # unit; a class distance of this size is a logit of 1
UNKNOWN_LOGIT = -1e4  # of a class that nothing is known of: never the largest, and no part of a softmax


def labels_of(sdf_Q: torch.Tensor, logits_QC: torch.Tensor) -> torch.Tensor:
    """u8 labels of points with signed distances `sdf_Q` (negative inside) and class logits `logits_QC`, both of any
    leading shape: 0 (background) where the distance is >= 0, elsewhere 1 + the index of the largest logit."""
    return torch.where(sdf_Q >= 0, 0, logits_QC.argmax(-1) + 1).to(torch.uint8)


def logits_of_distances(class_sdf_QC: torch.Tensor) -> torch.Tensor:
    """The logits (of any leading shape, C) that stand for signed distances to the classes (unit, negative inside): the
    largest belongs to the smallest distance, and is positive where a class claims the point."""
    return class_sdf_QC / -LOGIT_UNIT
