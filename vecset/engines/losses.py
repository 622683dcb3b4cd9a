"""The losses, by name. Each is a mean over a case's points, then over cases, so batches and ranks change nothing.

vol        L1 of the distance at volume points (inside and outside)        unit
near       L1 of the distance at points near the surfaces                  unit
surface    L1 at surface points against the stored union distance: 0 on the outer surface, negative on inner walls
eikonal    (|grad sdf| - 1)^2 at the Eikonal points (Gropp et al., ICML 2020)
class      the class logits at query and surface points: binary cross-entropy per class ('bce', the mission's) or
           softmax over background (logit 0) and classes ('softmax'); classes that were not annotated are masked
kl         of the KL bottleneck
"""

import torch
import torch.nn.functional as F

QUERY_GROUPS = ("near", "inside", "outside")
POINT_GROUPS = QUERY_GROUPS + ("surface",)
LOSSES = ("vol", "near", "surface", "eikonal", "class", "kl")
DEFAULT_WEIGHTS = {"vol": 1.0, "near": 10.0, "surface": 10.0, "eikonal": 0.001, "class": 1.0, "kl": 0.001}


def decoded_points(batch):
    """Every point at which the field is decoded and compared, with its truth: the queries, then the surface points.
    -> points_BT3, sdf_BT, labels_BT (0 background), group_BT (index into POINT_GROUPS)."""
    surface = torch.full_like(batch["surface_labels"], POINT_GROUPS.index("surface"))
    return (torch.cat([batch["query_points"], batch["surface_points"]], 1),
            torch.cat([batch["query_sdf"], batch["surface_sdf"]], 1),
            torch.cat([batch["query_labels"], batch["surface_labels"]], 1).long(),
            torch.cat([batch["query_group"], surface], 1))


def compute_losses(outputs, targets, annotated_BC, weights, class_loss="bce", truncate=0.0):
    """outputs of the model at the points of `decoded_points`; targets = (sdf_BT, labels_BT, group_BT) from there.
    weights: name -> weight; a loss of weight 0 is left out of the total and of the work.
    truncate: distances are compared after clamping both to +-truncate (unit); 0 compares them whole.
    -> (total, raw): raw maps each computed loss's name to its value before weighting (0-d, float32).
    """
    sdf_BT, labels_BT, group_BT = targets
    predicted_BT = outputs["sdf_BQ"]
    raw = {}
    if truncate:
        # the clamp must not stop the gradient where the prediction is on the wrong side of the band
        low, high = sdf_BT.clamp(-truncate, truncate), predicted_BT.clamp(-truncate, truncate)
        beyond = ((sdf_BT.abs() >= truncate) & (predicted_BT.abs() >= truncate) & (sdf_BT * predicted_BT > 0))
        error_BT = torch.where(beyond, (high - low).abs(), (predicted_BT - low).abs())
    else:
        error_BT = (predicted_BT - sdf_BT).abs()
    groups = {"vol": ("inside", "outside"), "near": ("near",), "surface": ("surface",)}
    for name, members in groups.items():
        if weights.get(name):
            chosen_BT = torch.isin(group_BT, group_BT.new_tensor([POINT_GROUPS.index(m) for m in members]))
            raw[name] = _mean_per_case(error_BT, chosen_BT).mean()
    if weights.get("eikonal") and "gradient_BE3" in outputs:
        raw["eikonal"] = (safe_norm(outputs["gradient_BE3"]) - 1).square().mean(1).mean()
    if weights.get("class"):
        raw["class"] = CLASS_LOSSES[class_loss](outputs["logits_BQC"], labels_BT, annotated_BC)
    if weights.get("kl") and "kl_B" in outputs:
        raw["kl"] = outputs["kl_B"].mean()
    if not raw:
        raise ValueError(f"no loss to compute: weights {weights}")
    total = sum(weights[name] * value for name, value in raw.items())
    return total, raw


def safe_norm(vectors):
    """|v| along the last axis, with gradient 0 (not NaN) at v = 0, where a zero-initialised output layer starts."""
    square = vectors.square().sum(-1)
    nonzero = square > 0
    return torch.where(nonzero, torch.where(nonzero, square, 1.0).sqrt(), 0.0)


def _mean_per_case(values_BT, chosen_BT):
    return (values_BT * chosen_BT).sum(1) / chosen_BT.sum(1).clamp_min(1)


def binary_class_loss(logits_BTC, labels_BT, annotated_BC):
    """Binary cross-entropy per class, mean over annotated classes and points. An annotated class that this heart does
    not have is trained towards 'nowhere'."""
    target_BTC = F.one_hot(labels_BT, logits_BTC.shape[-1] + 1)[..., 1:].to(logits_BTC.dtype)
    loss_BTC = F.binary_cross_entropy_with_logits(logits_BTC, target_BTC, reduction="none")
    mask_B1C = annotated_BC.to(loss_BTC.dtype).unsqueeze(1)
    return ((loss_BTC * mask_B1C).sum((1, 2)) / (mask_B1C.sum((1, 2)).clamp_min(1) * logits_BTC.shape[1])).mean()


def softmax_class_loss(logits_BTC, labels_BT, annotated_BC):
    """Cross-entropy over background (its logit is 0) and the annotated classes, mean over points."""
    logits_BTC = logits_BTC.masked_fill(~annotated_BC.unsqueeze(1), -1e4)
    logits_BTK = torch.cat([torch.zeros_like(logits_BTC[..., :1]), logits_BTC], -1)
    return F.cross_entropy(logits_BTK.flatten(0, 1), labels_BT.flatten(), reduction="none").view_as(labels_BT).float(
    ).mean(1).mean()


CLASS_LOSSES = {"bce": binary_class_loss, "softmax": softmax_class_loss}
