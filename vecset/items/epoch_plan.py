"""Which case is trained on when, by arithmetic alone: no state to save, nothing that a stop could lose.

An epoch is a permutation of the cases, drawn from (seed, epoch). With weights of data sets, a heart of weight 8 is in
it 8 times, each time with other draws of points, and of a set of weight 0.5 half of the hearts are, others in each
epoch. Cut into micro-batches of ranks x batch_size, in
order, `accum_iter` of which make one optimizer step: so n ranks with batch b see in every step the cases that one
rank sees with batch n b. The last step of an epoch takes what is left; `MicroBatch.weight` makes its average right.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vecset.common.draws import random_stream
from vecset.common.errors import InputError


@dataclass(frozen=True)
class MicroBatch:
    """What one rank computes at once: case numbers, and the weight of their mean loss such that the sum over the step's
    micro-batches, averaged over ranks (as DDP does), is the mean over all cases of the step. A rank for which no case
    is left gets one anyway, with weight 0 and count 0: DDP needs every rank in every pass. `draws`: for `keys`, the
    case numbers, plus the number of cases for each earlier time that a case is in this epoch."""

    indices: tuple
    count: int
    weight: float
    draws: tuple = ()


class EpochPlan:
    """`num_draws`: how many cases an epoch has. weights: {data set: how often each of its hearts is drawn per epoch},
    with sets (num_cases,), the data set of each case; None: each case once."""

    def __init__(
        self,
        num_cases: int,
        batch_size: int,
        accum_iter: int = 1,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        weights: Mapping[str, float] | None = None,
        sets: Sequence[str] = (),
    ):
        self.num_cases, self.seed, self.rank, self.ranks = num_cases, seed, rank, ranks
        self.weights, self._of_set = weights, {}
        for case, name in enumerate(sets if weights else ()):
            self._of_set.setdefault(name, []).append(case)
        self.num_draws = len(self._drawn(0)) if weights else num_cases
        self.per_pass = batch_size * ranks  # cases of one micro-batch, all ranks together
        self.per_step = self.per_pass * accum_iter
        if self.num_draws < self.per_step:
            raise InputError(
                "train.csv",
                f"at least batch size x ranks x accumulation = {batch_size} x {ranks} x "
                f"{accum_iter} = {self.per_step} cases",
                f"{self.num_draws}" + (" draws with these weights of data sets" if weights else ""),
                "lower --batch_size or --accum_iter",
            )
        self.steps_per_epoch = -(-self.num_draws // self.per_step)
        self._order = (None, None)

    def order(self, epoch: int) -> np.ndarray:
        """(num_draws,) the epoch's permutation of draws (`MicroBatch.draws`), without weights of the case numbers."""
        if self._order[0] != epoch:
            drawn = self._drawn(epoch) if self.weights else self.num_cases
            self._order = (epoch, random_stream(self.seed, epoch, "", "order of cases").permutation(drawn))
        return self._order[1]

    def _drawn(self, epoch):
        """(num_draws,) draws of an epoch: of each data set all hearts as often as its weight says, and, for the rest of
        the weight, some of them."""
        found = []
        for name, cases in sorted(self._of_set.items()):
            times, rest = divmod(self.weights[name], 1)
            some = random_stream(self.seed, epoch, name, "hearts of a data set").permutation(cases)
            parts = [cases] * int(times) + [some[: round(rest * len(cases))]]
            found += [np.asarray(part, int) + again * self.num_cases for again, part in enumerate(parts)]
        return np.concatenate(found)

    def _step_draws(self, epoch, step):
        return self.order(epoch)[step * self.per_step : (step + 1) * self.per_step].tolist()

    def step_cases(self, epoch: int, step: int) -> list[int]:
        """Case numbers of one optimizer step, all ranks together."""
        return [draw % self.num_cases for draw in self._step_draws(epoch, step)]

    def micro_batches(self, epoch: int, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of one optimizer step."""
        cases = self._step_draws(epoch, step)
        passes = []
        for start in range(0, len(cases), self.per_pass):
            joint = cases[start : start + self.per_pass]
            # an incomplete pass is divided evenly: the first ranks take one more
            base, extra = divmod(len(joint), self.ranks)
            first = self.rank * base + min(self.rank, extra)
            own = joint[first : first + base + (self.rank < extra)]
            draws = tuple(own or joint[:1])
            indices = tuple(draw % self.num_cases for draw in draws)
            passes.append(MicroBatch(indices, len(own), len(own) * self.ranks / len(cases), draws))
        return passes

    def keys(self, epoch: int, step: int, epochs: int) -> Iterator[list[tuple[int, int]]]:
        """This rank's lists of (epoch, draw) from (epoch, step) up to the end of training, for the loader. One
        stream over all epochs: the loader never runs dry between two of them."""
        while epoch < epochs:
            for s in range(step, self.steps_per_epoch):
                for micro in self.micro_batches(epoch, s):
                    yield [(epoch, index) for index in micro.draws]
            epoch, step = epoch + 1, 0
