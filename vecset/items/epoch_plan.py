"""Which case is trained on when, by arithmetic alone: no state to save, nothing that a stop could lose.

An epoch is a permutation of the cases, drawn from (seed, epoch). Cut into micro-batches of ranks x batch_size, in
order, `accum_iter` of which make one optimizer step: so n ranks with batch b see in every step the cases that one
rank sees with batch n b. The last step of an epoch takes what is left; `MicroBatch.weight` makes its average right.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vecset.common.draws import random_stream
from vecset.common.errors import InputError


@dataclass(frozen=True)
class MicroBatch:
    """What one rank computes at once: case numbers, and the weight of their mean loss such that the sum over the step's
    micro-batches, averaged over ranks (as DDP does), is the mean over all cases of the step. A rank for which no case
    is left gets one anyway, with weight 0 and count 0: DDP needs every rank in every pass."""

    indices: tuple
    count: int
    weight: float


class EpochPlan:
    def __init__(
        self, num_cases: int, batch_size: int, accum_iter: int = 1, seed: int = 0, rank: int = 0, ranks: int = 1
    ):
        self.num_cases, self.seed, self.rank, self.ranks = num_cases, seed, rank, ranks
        self.per_pass = batch_size * ranks  # cases of one micro-batch, all ranks together
        self.per_step = self.per_pass * accum_iter
        if num_cases < self.per_step:
            raise InputError(
                "train.csv",
                f"at least batch size x ranks x accumulation = {batch_size} x {ranks} x "
                f"{accum_iter} = {self.per_step} cases",
                f"{num_cases}",
                "lower --batch_size or --accum_iter",
            )
        self.steps_per_epoch = -(-num_cases // self.per_step)
        self._order = (None, None)

    def order(self, epoch: int) -> np.ndarray:
        """(num_cases,) the epoch's permutation."""
        if self._order[0] != epoch:
            self._order = (epoch, random_stream(self.seed, epoch, "", "order of cases").permutation(self.num_cases))
        return self._order[1]

    def step_cases(self, epoch: int, step: int) -> list[int]:
        """Case numbers of one optimizer step, all ranks together."""
        return self.order(epoch)[step * self.per_step : (step + 1) * self.per_step].tolist()

    def micro_batches(self, epoch: int, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of one optimizer step."""
        cases = self.step_cases(epoch, step)
        passes = []
        for start in range(0, len(cases), self.per_pass):
            joint = cases[start : start + self.per_pass]
            # an incomplete pass is divided evenly: the first ranks take one more
            base, extra = divmod(len(joint), self.ranks)
            first = self.rank * base + min(self.rank, extra)
            own = joint[first : first + base + (self.rank < extra)]
            passes.append(MicroBatch(tuple(own or joint[:1]), len(own), len(own) * self.ranks / len(cases)))
        return passes

    def keys(self, epoch: int, step: int, epochs: int) -> Iterator[list[tuple[int, int]]]:
        """This rank's lists of (epoch, case number) from (epoch, step) up to the end of training, for the loader. One
        stream over all epochs: the loader never runs dry between two of them."""
        while epoch < epochs:
            for s in range(step, self.steps_per_epoch):
                for micro in self.micro_batches(epoch, s):
                    yield [(epoch, index) for index in micro.indices]
            epoch, step = epoch + 1, 0
