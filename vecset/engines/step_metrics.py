"""What a step leaves behind, kept on the device until someone looks: sums of losses and metrics, and whether every
number so far was finite. Nothing here makes the host wait for the device except `read` and `first_bad_step`."""

import torch

from vecset.engines.distributed import max_over_ranks, sum_over_ranks
from vecset.engines.losses import LOSSES, in_groups

METRICS = ("loss",) + LOSSES + ("iou_near", "iou_vol", "accuracy", "gradient_norm", "interrupted")


class MetricSums:
    """Averages over cases: `add` sums and counts on the device, `read` adds up over ranks and gives the means."""

    def __init__(self, ranks):
        self.ranks = ranks
        self._reset()

    def _reset(self):
        self._on_host = torch.zeros(len(METRICS), 2, dtype=torch.float64)
        self._on_device = {}  # names with a tensor -> (names, 2) sums

    def add(self, values):
        """values: name (of METRICS) -> (sum over cases, number of cases), each a 0-d tensor or number. Numbers stay on
        the host and tensors on the device until `read`: nothing is copied from one to the other."""
        there = tuple(sorted((name, i) for name, pair in values.items() for i in (0, 1) if torch.is_tensor(pair[i])))
        for name, pair in values.items():
            for i in (0, 1):
                if not torch.is_tensor(pair[i]):
                    self._on_host[METRICS.index(name), i] += pair[i]
        if there:
            new = torch.stack([values[name][i].detach().double() for name, i in there])
            self._on_device[there] = self._on_device[there] + new if there in self._on_device else new

    def read(self):
        """name -> mean over all cases of all ranks since the last reading, for every name that had any."""
        sums = self._on_host
        for there, totals in self._on_device.items():
            for (name, i), total in zip(there, totals.tolist()):
                sums[METRICS.index(name), i] += total
        self._reset()
        sums = sum_over_ranks(sums.to(self.ranks.device), self.ranks).tolist()
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
        self._bad_values = (
            now if self._bad_values is None else torch.where(first | (self.skip == 0), now, self._bad_values)
        )
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
        chosen_BT = in_groups(group_BT, members)
        values[name] = _ratio_per_case((truth_BT & predicted_BT & chosen_BT), ((truth_BT | predicted_BT) & chosen_BT))
    known_BT = (labels_BT > 0) & annotated_BC.gather(1, (labels_BT - 1).clamp_min(0))
    right_BT = known_BT & (outputs["logits_BQC"].argmax(-1) + 1 == labels_BT)
    values["accuracy"] = _ratio_per_case(right_BT, known_BT)
    return values


def _ratio_per_case(part_BT, whole_BT):
    part_B, whole_B = part_BT.sum(1), whole_BT.sum(1)
    defined_B = whole_B > 0
    return torch.where(defined_B, part_B / whole_B.clamp_min(1), 0.0).double().sum(), defined_B.sum()
