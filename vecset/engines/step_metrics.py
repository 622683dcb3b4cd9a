"""What a step leaves behind, kept on the device until someone looks: sums of losses and metrics, and whether every
number so far was finite. Nothing here makes the host wait for the device except `read` and `first_bad_step`."""

import torch

from vecset.engines.losses import LOSSES, POINT_GROUPS
from vecset.utils.distributed import max_over_ranks, sum_over_ranks


METRICS = ("loss",) + LOSSES + ("iou_near", "iou_vol", "accuracy", "gradient_norm", "interrupted")


class MetricSums:
    """Averages over cases: `add` sums and counts on the device, `read` adds up over ranks and gives the means."""

    def __init__(self, ranks):
        self.ranks = ranks
        self._reset()

    def _reset(self):
        self._sums = torch.zeros(len(METRICS), 2, dtype=torch.float64, device=self.ranks.device)

    def add(self, values):
        """values: name (of METRICS) -> (sum over cases, number of cases), each a 0-d tensor or number."""
        nothing = (0.0, 0.0)
        pairs = [x for name in METRICS for x in values.get(name, nothing)]
        host = torch.tensor([0.0 if torch.is_tensor(x) else x for x in pairs], dtype=torch.float64)
        new = host.to(self.ranks.device, non_blocking=True)
        places = [i for i, x in enumerate(pairs) if torch.is_tensor(x)]
        if places:
            new[places] = torch.stack([pairs[i].detach().double() for i in places])
        self._sums += new.view(-1, 2)

    def read(self):
        """name -> mean over all cases of all ranks since the last reading, for every name that had any."""
        sums = sum_over_ranks(self._sums, self.ranks).tolist()
        self._reset()
        return {name: total / count for name, (total, count) in zip(METRICS, sums) if count}


class FiniteGuard:
    """Freezes the weights from the first step whose loss or gradient is not finite, on all ranks alike."""

    def __init__(self, ranks):
        self.ranks = ranks
        self.skip = torch.zeros((), device=ranks.device)  # 1 from the first bad step on
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=ranks.device)
        self._bad_values, self._names = None, ()

    def check(self, values, global_step):
        """values: name -> 0-d tensor, this rank's losses and gradient norm. Returns the mask for `masked_step`."""
        self._names = tuple(values)
        now = torch.stack([v.detach().float() for v in values.values()])
        bad = max_over_ranks((~torch.isfinite(now).all()).float(), self.ranks)
        first = (bad > 0) & (self.skip == 0)
        self._bad_step = torch.where(first, global_step, self._bad_step)
        self._bad_values = now if self._bad_values is None else torch.where(first | (self.skip == 0), now,
                                                                            self._bad_values)
        self.skip = torch.maximum(self.skip, bad)
        return self.skip

    def first_bad_step(self):
        """The global step that was not finite, or None. Waits for the device."""
        step = int(self._bad_step)
        return None if step < 0 else step

    def bad_values(self):
        """name -> value on this rank in that step."""
        return dict(zip(self._names, self._bad_values.tolist()))


@torch.no_grad()
def point_metrics(outputs, targets, annotated_BC):
    """Metrics at the decoded points: name -> (sum over cases, number of cases where it is defined).

    iou_near, iou_vol   intersection over union of 'inside' (distance < 0) among near points, and among volume points
    accuracy            share of inside points of annotated classes whose largest logit is their class
    """
    sdf_BT, labels_BT, group_BT = targets
    truth_BT, predicted_BT = sdf_BT < 0, outputs["sdf_BQ"] < 0
    values = {}
    for name, members in (("iou_near", ("near",)), ("iou_vol", ("inside", "outside"))):
        chosen_BT = torch.isin(group_BT, group_BT.new_tensor([POINT_GROUPS.index(m) for m in members]))
        values[name] = _ratio_per_case((truth_BT & predicted_BT & chosen_BT), ((truth_BT | predicted_BT) & chosen_BT))
    known_BT = (labels_BT > 0) & annotated_BC.gather(1, (labels_BT - 1).clamp_min(0))
    right_BT = known_BT & (outputs["logits_BQC"].argmax(-1) + 1 == labels_BT)
    values["accuracy"] = _ratio_per_case(right_BT, known_BT)
    return values


def _ratio_per_case(part_BT, whole_BT):
    part_B, whole_B = part_BT.sum(1), whole_BT.sum(1)
    defined_B = whole_B > 0
    return torch.where(defined_B, part_B / whole_B.clamp_min(1), 0.0).double().sum(), defined_B.sum()
