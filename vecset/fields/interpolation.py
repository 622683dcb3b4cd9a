"""Labels of voxels, and of smaller cells, between the centres of cells that were decoded, where these leave no doubt.

A field is smooth over a voxel or two but for its kinks. Between cells of two voxels its raw values (distance and
logits, before any decision) are interpolated linearly. Second differences say how far that may be wrong: linear
interpolation at a quarter of a step errs by 3/32 of the second difference along each axis, if that is constant. Where
a decision (inside or outside, which class) could be another within DOUBT times the largest of these at the corners,
the voxel is decoded. So the error follows the field: next to a kink, or a vessel thinner than a cell, it is large.

Cells of two voxels lie likewise between cells of four, and these between cells of eight. There, a value is known up to
that error and to how much it changes within the cell, by the differences of the corners. A cell that has one label for
all such values is settled: it is not decoded, and its values, with their error, serve where cells or voxels beside it
are interpolated.
"""

import numpy as np
import torch

from vecset.fields.heart_field import HeartField

DOUBT = 4.0  # times the error that second differences say; figures: benchmarks/RESULTS.md
QUARTER = 3 / 32  # t (1 - t) / 2 at t = 1/4
WITHIN = 4 / 3  # times QUARTER: the same at t = 1/2, which no voxel of a cell between two larger ones passes
ROUNDING = 1e-5  # of the values: least error that is reckoned with
CHUNK = 1 << 16  # voxels at once: what is read of them stays in the cache


class CellValues:
    """Raw values (N, 1 + C) f32, distance and logits, of the cells `flat` (N,) of a level with `cells` (3,), of which
    each is split into `factors` (3,) voxels, or cells of the next level, 1 or 2 along each axis. error_NF: of cells
    that were interpolated themselves, the error that second differences said there, 0 of the others; None: all were
    decoded."""

    def __init__(
        self,
        values_NF: torch.Tensor,
        flat: np.ndarray,
        cells: tuple,
        factors: tuple,
        error_NF: torch.Tensor | None = None,
    ):
        self.values_NF, self.error_NF, self.factors = values_NF, error_NF, np.array(factors)
        self.halved = [axis for axis in range(3) if factors[axis] == 2]
        # row of each cell, -1 of one that was not decoded; with a cell more on each side, so no neighbour is beyond it
        rows = np.full(np.array(cells) + 2, -1, np.int32)
        self.steps = np.array(rows.strides) // rows.itemsize
        self.rows = rows.ravel()
        places = self._places(np.unravel_index(flat, cells))
        self.rows[places] = np.arange(len(flat))
        self.bend_NF, self.bent_N = self._bend(places)

    def _places(self, index):
        """Where in `rows` cells are, by their index along each axis (three arrays)."""
        return sum((i + 1) * step for i, step in zip(index, self.steps))

    def _bend(self, places):
        """(N, 1 + C): the error of interpolation, by second differences along the halved axes; where a neighbour was
        not decoded, by those along the others. And (N,) u8: bit a is set where that along axis a is known."""
        bend_NF, bent_N = torch.zeros_like(self.values_NF), torch.zeros(len(places), dtype=torch.uint8)
        for start in range(0, len(places), CHUNK):
            part = slice(start, start + CHUNK)
            for axis, step in zip(self.halved, self.steps[self.halved]):
                after, before = (torch.from_numpy(self.rows[places[part] + sign * step]) for sign in (1, -1))
                known = torch.nonzero((after >= 0) & (before >= 0)).squeeze(1)
                mine = start + known
                difference = self.values_NF[after[known]] + self.values_NF[before[known]] - 2 * self.values_NF[mine]
                bend_NF[mine] += difference.abs_() * QUARTER
                bent_N[mine] += 2**axis
        return bend_NF, bent_N

    def labels(self, field: HeartField, flat: np.ndarray, shape: tuple) -> tuple[np.ndarray, np.ndarray]:
        """Of the voxels `flat` (Q,) of a grid of `shape`: labels (Q,) u8, and where they are certain (Q,) bool."""
        labels, certain = np.zeros(len(flat), np.uint8), np.zeros(len(flat), bool)
        for part, known, value, bend, _ in self._between(flat, shape):
            found, sure = field.labels_within(value, bend.mul_(DOUBT).add_(ROUNDING * (1 + value.abs())))
            labels[part][known], certain[part][known] = found.numpy(), sure.numpy()
        return labels, certain

    def settled(
        self, field: HeartField, flat: np.ndarray, shape: tuple, reach: tuple
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Which of the cells `flat` (Q,) of the next level, `shape` of them, have one label in the whole cell (Q,)
        bool; of these (K,) the raw values (K, 1 + C), and their `error_NF`. reach (3,): how far voxels lie from the
        centre of a cell, in steps of the cells that are interpolated between. None is settled where no corner knows how
        the field bends along one of the axes, as on a grid of two cells."""
        every = sum(2**axis for axis in self.halved)
        sure, values, bends = np.zeros(len(flat), bool), [], []
        for part, known, value, bend, (changes, bent) in self._between(flat, shape, edges=True):
            within = sum(share * change for share, change in zip(reach, changes))
            error = bend * (DOUBT * WITHIN) + within + ROUNDING * (1 + value.abs())
            one = field.labels_within(value, error)[1] & (bent == every)
            sure[part][known] = one.numpy()
            values.append(value[one])
            bends.append(bend[one])
        empty = self.values_NF[:0]
        return sure, torch.cat([empty, *values]), torch.cat([empty, *bends])

    def _between(self, flat, shape, edges=False):
        """Chunk by chunk of `flat` (Q,) of a grid of `shape`: the slice, which of it have all corners, and of these the
        interpolated values and their error (K, 1 + C): the largest of the corners by second differences, and what the
        corners' own errors come to; with `edges` the largest difference of two corners along each of the three axes, 0
        along one that is not halved, and (K,) u8 of which axes a corner knows the second difference."""
        for start in range(0, len(flat), CHUNK):
            part = slice(start, start + CHUNK)
            index = np.unravel_index(flat[part], shape)
            places = self._places([i // factor for i, factor in zip(index, self.factors)])
            beside = {a: np.where(index[a] % 2, self.steps[a], -self.steps[a]) for a in self.halved}
            corners, weights = [places], [1.0]
            for axis in self.halved:  # nearer the cell that a voxel is in than its neighbour on the voxel's side
                corners += [corner + beside[axis] for corner in corners]
                weights = [0.75 * w for w in weights] + [0.25 * w for w in weights]
            corners = [self.rows[corner] for corner in corners]
            known = np.flatnonzero(np.min(corners, axis=0) >= 0)
            if not len(known):
                continue
            value = bend = None
            own, taken, bent = 0.0, [], 0
            for rows, weight in zip(corners, weights):
                rows = torch.from_numpy(rows[known])
                corner, mine = self.values_NF[rows], self.bend_NF[rows]
                value = corner * weight if value is None else value.add_(corner, alpha=weight)
                bend = mine if bend is None else torch.maximum(bend, mine, out=bend)
                if self.error_NF is not None:
                    own = own + self.error_NF[rows] * weight
                if edges:
                    taken.append(corner)
                    bent = self.bent_N[rows] | bent
            yield part, known, value, bend.add_(own), (self._edges(taken), bent) if edges else None

    def _edges(self, corners):
        """Of the corners, in the order of `_between`, the largest difference along each axis; 0 along the others."""
        changes = [0.0, 0.0, 0.0]
        for number, axis in enumerate(self.halved):
            pairs = [(i, i + 2**number) for i in range(len(corners)) if not i & 2**number]
            changes[axis] = torch.stack([(corners[a] - corners[b]).abs() for a, b in pairs]).amax(0)
        return changes
