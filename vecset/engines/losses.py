"""The losses, by name. Each is a mean over a case's points, then over cases, so batches and ranks change nothing.
Where a part of the heart is hidden, points have weights (vecset/items/point_weights.py) in vol, near, surface,
class and class_distance.

vol        L1 of the distance at volume points (inside and outside)        unit
near       L1 of the distance at points near the surfaces                  unit
surface    L1 at surface points against the stored union distance: 0 on the outer surface, negative on inner walls
eikonal    (|grad sdf| - 1)^2 at the Eikonal points (Gropp et al., ICML 2020)
class      the class logits at query and surface points: binary cross-entropy per class ('bce') or
           softmax over background (logit 0) and classes ('softmax'); classes that were not annotated are masked
kl         of the KL bottleneck

Off by default, for experiments:

normal     |grad sdf - n|^2 at points of the outer surface, n its outward unit normal (the normal term of Gropp et al.)
balanced   class-balanced binary cross-entropy: per class, points inside and outside it have half the weight each
truncated  L1 of the distance at near and volume points, compared within a band of +-truncation (unit)

Of networks with a distance per class (`losses_of` says which network has which losses):

class_distance  L1 of the class distances at query and surface points, compared within a band of +-class_distance_clip
                (unit), mean over annotated classes: beside the union's distance
class_near      L1 of a class's distance at the points that are closer to it than class_distance_clip, and
class_far       at the others; mean over annotated classes: in place of the union's distance

A class that is annotated and absent has the distance ABSENT_DISTANCE everywhere (vecset/common/structure_state.py).

Of two answers to one heart (vecset/models/answer_noise.py) the losses are scores that are least where answers are
distributed as truths are, given what is seen: the energy score of two draws, |a - y| / 2 + |b - y| / 2 - |a - b| / 2
(Gneiting and Raftery, J. Am. Stat. Assoc. 2007, equation 22), where |.| is the root of the mean square over all points
of a case: point by point it would be least also for answers that are all large or all small together. vol, near and
surface: of distances. class: of the probabilities of a class, summed over classes, and the cross-entropy of the mean of
both answers' probabilities, which trains where a probability is far off. eikonal: of the first.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F

from vecset.engines.arguments import DEFAULT_WEIGHTS
from vecset.items.dataset import QUERY_GROUPS
from vecset.models.labels import UNKNOWN_LOGIT

POINT_GROUPS = QUERY_GROUPS + ("surface",)
LOSSES = tuple(DEFAULT_WEIGHTS)
_DISTANCE_LOSSES = {"vol": ("inside", "outside"), "near": ("near",), "surface": ("surface",)}
OF_ANSWERS = ("vol", "near", "surface", "eikonal", "class", "kl")  # the losses that two answers have
LEAST_PROBABILITY = 1e-7
LEAST_DISTANCE = 1e-4  # of two answers: below it they count as one, and the slope of a root stays finite
_OF_CLASS_FIELDS = ("class_near", "class_far", "eikonal", "kl")


def losses_of(network: str, class_outputs: str) -> tuple[str, ...]:
    """The names of the losses of a network (`--network`, `--class_outputs`); those of the others are not computed."""
    if network != "joint":
        return _OF_CLASS_FIELDS
    left_out = {"class_near", "class_far"}
    if class_outputs == "logits":
        left_out |= {"class_distance"}
    if class_outputs == "distances":  # its logits are distances
        left_out |= {"class", "balanced"}
    return tuple(name for name in LOSSES if name not in left_out)


def decoded_points(batch: dict) -> tuple[torch.Tensor, ...]:
    """Every point at which the field is decoded and compared, with its truth: the queries, then the surface points.
    -> points_BT3, sdf_BT, labels_BT (0 background), group_BT (index into POINT_GROUPS)."""
    points_BN3, sdf_BN, labels_BN = (batch[f"surface_{name}"] for name in ("points", "sdf", "labels"))
    if "surface_decoded" in batch:
        index_BS = batch["surface_decoded"]
        points_BN3 = points_BN3.gather(1, index_BS.unsqueeze(-1).expand(-1, -1, 3))
        sdf_BN, labels_BN = sdf_BN.gather(1, index_BS), labels_BN.gather(1, index_BS)
    surface = torch.full_like(labels_BN, POINT_GROUPS.index("surface"))
    return (
        torch.cat([batch["query_points"], points_BN3], 1),
        torch.cat([batch["query_sdf"], sdf_BN], 1),
        torch.cat([batch["query_labels"], labels_BN], 1).long(),
        torch.cat([batch["query_group"], surface], 1),
    )


def decoded_class_distances(batch: dict) -> torch.Tensor | None:
    """The true class distances (B, T, C), f32 in unit, at the points of `decoded_points`; None where the batch has
    none."""
    if "query_class_sdf" not in batch:
        return None
    surface_BNC = batch["surface_class_sdf"]
    if "surface_decoded" in batch:
        index_BS1 = batch["surface_decoded"].unsqueeze(-1)
        surface_BNC = surface_BNC.gather(1, index_BS1.expand(-1, -1, surface_BNC.shape[-1]))
    return torch.cat([batch["query_class_sdf"], surface_BNC], 1)


def in_groups(group_BT: torch.Tensor, names: Iterable[str]) -> torch.Tensor:
    """Whether a point is in one of the groups `names`. Compares with numbers: `isin` with a list would copy the list
    to the device and make the host wait for it."""
    chosen_BT = torch.zeros_like(group_BT, dtype=torch.bool)
    for name in names:
        chosen_BT = chosen_BT | (group_BT == POINT_GROUPS.index(name))
    return chosen_BT


def compute_losses(
    outputs: dict,
    targets,
    annotated_BC: torch.Tensor,
    weights: dict,
    class_loss: str = "bce",
    truncation: float = 0.1,
    normals_BS3: torch.Tensor | None = None,
    class_sdf_BTC: torch.Tensor | None = None,
    class_distance_clip: float = 0.1,
    weights_BT: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """outputs of the model at the points of `decoded_points`; targets = (sdf_BT, labels_BT, group_BT) from there.
    weights: name -> weight; a loss of weight 0 is not computed.
    truncation: half width (unit) of the band of the truncated loss.
    normals_BS3: outward normals where outputs["normal_gradient_BS3"] was taken; the normal loss needs both.
    outputs["other"]: sdf_BQ and logits_BQC of another answer; losses are then those of OF_ANSWERS.
    class_sdf_BTC: from `decoded_class_distances`; the losses of class distances need them and
    outputs["class_sdf_BQC"]. class_distance_clip: half width (unit) of their band.
    weights_BT: what the points count (`point_weights`); None: 1 each.
    -> (total, raw): raw maps each computed loss's name to its value before weighting (0-d, float32).
    """
    sdf_BT, labels_BT, group_BT = targets
    predicted_BT, other = outputs["sdf_BQ"], outputs.get("other")
    raw = {}
    for name, members in _DISTANCE_LOSSES.items():
        if not weights.get(name):
            continue
        chosen_BT = in_groups(group_BT, members)

        def mean(values_BT, chosen_BT=chosen_BT):
            return _mean_per_case(_weighted(values_BT, weights_BT), chosen_BT)

        if other:
            raw[name] = energy_score(predicted_BT, other["sdf_BQ"], sdf_BT, mean).mean()
        else:
            raw[name] = mean((predicted_BT - sdf_BT).abs()).mean()
    if weights.get("eikonal") and "gradient_BE3" in outputs:
        raw["eikonal"] = (safe_norm(outputs["gradient_BE3"]) - 1).square().mean(1).mean()
    if weights.get("eikonal") and "class_gradient_BEC3" in outputs:
        error_BEC = (safe_norm(outputs["class_gradient_BEC3"]) - 1).square()
        raw["eikonal"] = _mean_over_classes(error_BEC.mean(1), outputs["present_BC"]).mean()
    if weights.get("class") and other:
        answers = outputs["logits_BQC"], other["logits_BQC"]
        raw["class"] = CLASS_LOSSES_OF_ANSWERS[class_loss](*answers, labels_BT, annotated_BC, weights_BT)
    elif weights.get("class"):
        raw["class"] = CLASS_LOSSES[class_loss](outputs["logits_BQC"], labels_BT, annotated_BC, weights_BT)
    if weights.get("kl") and "kl_B" in outputs:
        raw["kl"] = outputs["kl_B"].mean()
    if weights.get("normal") and normals_BS3 is not None:
        raw["normal"] = (outputs["normal_gradient_BS3"] - normals_BS3).square().sum(-1).mean(1).mean()
    if weights.get("balanced"):
        raw["balanced"] = balanced_class_loss(outputs["logits_BQC"], labels_BT, annotated_BC)
    if weights.get("truncated"):
        error_BT = truncated_error(predicted_BT, sdf_BT, truncation)
        raw["truncated"] = _mean_per_case(error_BT, in_groups(group_BT, QUERY_GROUPS)).mean()
    if class_sdf_BTC is not None:
        raw |= _class_distance_losses(
            outputs["class_sdf_BQC"], class_sdf_BTC, annotated_BC, weights, class_distance_clip, weights_BT
        )
    if not raw:
        raise ValueError(f"no loss to compute: weights {weights}")
    total = sum(weights[name] * value for name, value in raw.items())
    return total, raw


def _class_distance_losses(predicted_BTC, truth_BTC, annotated_BC, weights, clip, weights_BT):
    raw = {}
    if weights.get("class_distance"):
        error_BTC = truncated_error(predicted_BTC, truth_BTC, clip)
        raw["class_distance"] = _mean_over_classes(_weighted(error_BTC, weights_BT).mean(1), annotated_BC).mean()
    near_BTC = truth_BTC.abs() < clip
    for name, chosen_BTC in (("class_near", near_BTC), ("class_far", ~near_BTC)):
        if weights.get(name):
            error_BC = _mean_per_case((predicted_BTC - truth_BTC).abs(), chosen_BTC)
            raw[name] = _mean_over_classes(error_BC, annotated_BC).mean()
    return raw


def _mean_over_classes(values_BC, chosen_BC):
    """(B,) means over the chosen classes of a case; 0 where there are none."""
    return torch.where(chosen_BC, values_BC, 0.0).sum(1) / chosen_BC.sum(1).clamp_min(1)


def truncated_error(predicted_BT: torch.Tensor, sdf_BT: torch.Tensor, truncation: float) -> torch.Tensor:
    """|predicted - truth clamped to the band|, and 0 where both are beyond the band on the same side. The prediction
    itself is not clamped: a clamp would stop the gradient where it is beyond the band on the wrong side."""
    beyond_BT = (sdf_BT.abs() >= truncation) & (predicted_BT.abs() >= truncation) & (sdf_BT * predicted_BT > 0)
    error_BT = (predicted_BT - sdf_BT.clamp(-truncation, truncation)).abs()
    return torch.where(beyond_BT, 0.0, error_BT)


def safe_norm(vectors: torch.Tensor) -> torch.Tensor:
    """|v| along the last axis, with gradient 0 (not NaN) at v = 0, where a zero-initialised output layer starts."""
    square = vectors.square().sum(-1)
    nonzero = square > 0
    return torch.where(nonzero, torch.where(nonzero, square, 1.0).sqrt(), 0.0)


def _weighted(values, weights_BT):
    """Values of points (B, T) or (B, T, K) times what the points count."""
    if weights_BT is None:
        return values
    return values * (weights_BT if values.ndim == 2 else weights_BT.unsqueeze(-1))


def _mean_per_case(values_BT, chosen_BT):
    # not values x chosen: what is not finite in one group would be so in all, and the message would name them all
    return torch.where(chosen_BT, values_BT, 0.0).sum(1) / chosen_BT.sum(1).clamp_min(1)


def binary_class_loss(
    logits_BTC: torch.Tensor,
    labels_BT: torch.Tensor,
    annotated_BC: torch.Tensor,
    weights_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy per class, mean over annotated classes and points. An annotated class that this heart does
    not have is trained towards 'nowhere'."""
    target_BTC = F.one_hot(labels_BT, logits_BTC.shape[-1] + 1)[..., 1:].to(logits_BTC.dtype)
    loss_BTC = _weighted(F.binary_cross_entropy_with_logits(logits_BTC, target_BTC, reduction="none"), weights_BT)
    mask_B1C = annotated_BC.to(loss_BTC.dtype).unsqueeze(1)
    return ((loss_BTC * mask_B1C).sum((1, 2)) / (mask_B1C.sum((1, 2)).clamp_min(1) * logits_BTC.shape[1])).mean()


def balanced_class_loss(logits_BTC: torch.Tensor, labels_BT: torch.Tensor, annotated_BC: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy per class in which the points inside the class and those outside it have half the weight
    each (all of it where there is only one kind: a class that is absent), mean over annotated classes."""
    target_BTC = F.one_hot(labels_BT, logits_BTC.shape[-1] + 1)[..., 1:].to(logits_BTC.dtype)
    loss_BTC = F.binary_cross_entropy_with_logits(logits_BTC, target_BTC, reduction="none")
    sums_BC, kinds_BC = 0.0, 0.0
    for kind_BTC in (target_BTC, 1 - target_BTC):
        count_BC = kind_BTC.sum(1)
        sums_BC = sums_BC + (loss_BTC * kind_BTC).sum(1) / count_BC.clamp_min(1)
        kinds_BC = kinds_BC + (count_BC > 0).to(loss_BTC.dtype)
    mask_BC = annotated_BC.to(loss_BTC.dtype)
    return ((sums_BC / kinds_BC * mask_BC).sum(1) / mask_BC.sum(1).clamp_min(1)).mean()


def _with_background(logits_BTC, annotated_BC):
    """(B, T, 1 + C) logits of the background, 0, and of the classes; that of one that was not annotated is
    UNKNOWN_LOGIT."""
    logits_BTC = logits_BTC.masked_fill(~annotated_BC.unsqueeze(1), UNKNOWN_LOGIT)
    return torch.cat([torch.zeros_like(logits_BTC[..., :1]), logits_BTC], -1)


def softmax_class_loss(
    logits_BTC: torch.Tensor,
    labels_BT: torch.Tensor,
    annotated_BC: torch.Tensor,
    weights_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy over background (its logit is 0) and the annotated classes, mean over points."""
    logits_BTK = _with_background(logits_BTC, annotated_BC)
    loss_BT = F.cross_entropy(logits_BTK.flatten(0, 1), labels_BT.flatten(), reduction="none").view_as(labels_BT)
    return _weighted(loss_BT.float(), weights_BT).mean(1).mean()


def energy_score(a: torch.Tensor, b: torch.Tensor, truth: torch.Tensor, mean: Callable) -> torch.Tensor:
    """Of two answers a, b (B, T, ...), per case, with the root of `mean` of the squares over the points as distance.
    mean: (B, T, ...) -> (B, ...)."""

    def distance(one, other):
        return (mean((one - other).square()) + LEAST_DISTANCE**2).sqrt()

    return (distance(a, truth) + distance(b, truth) - distance(a, b)) / 2


def softmax_loss_of_answers(
    a_BTC: torch.Tensor,
    b_BTC: torch.Tensor,
    labels_BT: torch.Tensor,
    annotated_BC: torch.Tensor,
    weights_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """Over background (its logit is 0) and the annotated classes."""
    p_BTK, q_BTK = (_with_background(x.float(), annotated_BC).softmax(-1) for x in (a_BTC, b_BTC))
    right_BT = ((p_BTK + q_BTK) / 2).gather(-1, labels_BT.unsqueeze(-1)).squeeze(-1)
    target_BTK = F.one_hot(labels_BT, p_BTK.shape[-1]).to(p_BTK.dtype)
    score_BK = energy_score(p_BTK, q_BTK, target_BTK, lambda x: _weighted(x, weights_BT).mean(1))
    missed_BT = -right_BT.clamp_min(LEAST_PROBABILITY).log()
    return (score_BK.sum(-1) + _weighted(missed_BT, weights_BT).mean(1)).mean()


def binary_loss_of_answers(
    a_BTC: torch.Tensor,
    b_BTC: torch.Tensor,
    labels_BT: torch.Tensor,
    annotated_BC: torch.Tensor,
    weights_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """Each class against all else, mean over annotated classes."""
    p_BTC, q_BTC = a_BTC.float().sigmoid(), b_BTC.float().sigmoid()
    target_BTC = F.one_hot(labels_BT, p_BTC.shape[-1] + 1)[..., 1:].to(p_BTC.dtype)
    mean_BTC = (p_BTC + q_BTC) / 2
    right_BTC = torch.where(target_BTC > 0, mean_BTC, 1 - mean_BTC).clamp_min(LEAST_PROBABILITY)
    score_BC = energy_score(p_BTC, q_BTC, target_BTC, lambda x: _weighted(x, weights_BT).mean(1))
    return _mean_over_classes(score_BC + _weighted(-right_BTC.log(), weights_BT).mean(1), annotated_BC).mean()


CLASS_LOSSES_OF_ANSWERS = {"bce": binary_loss_of_answers, "softmax": softmax_loss_of_answers}
CLASS_LOSSES = {"bce": binary_class_loss, "softmax": softmax_class_loss}
