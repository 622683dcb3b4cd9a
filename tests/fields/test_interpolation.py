"""Voxels between decoded cells: values as scipy interpolates them, decisions that hold within the errors, and a field
that is not smooth between the cells."""

import numpy as np
import pytest
import torch
from helpers.fake_model import FormulaModel, ball
from helpers.formula_fields import FRAMES, LATENTS, frame_of
from scipy.interpolate import RegularGridInterpolator

from vecset.fields.decision_tuning import DecisionTuning
from vecset.fields.decoding import decode_label_map
from vecset.fields.heart_field import HeartField
from vecset.fields.interpolation import DOUBT, QUARTER, ROUNDING, CellValues
from vecset.models.labels import labels_of


class Recorder:
    """In the place of a HeartField: keeps what it is asked to decide."""

    def labels_within(self, values_QF, errors_QF):
        self.values, self.errors = values_QF.clone(), errors_QF.clone()
        return torch.ones(len(values_QF), dtype=torch.uint8), torch.ones(len(values_QF), dtype=torch.bool)


@pytest.mark.parametrize("factors", [(2, 2, 2), (2, 1, 2), (1, 2, 1)])
def test_values_are_those_of_scipy_and_errors_those_of_second_differences(factors):
    rng = np.random.default_rng(0)
    cells, shape = (7, 6, 5), tuple(n * f - (f == 2) for n, f in zip((7, 6, 5), factors))  # odd: a cell is cut
    table = rng.normal(size=(*cells, 3)).astype(np.float32)
    flat = rng.permutation(np.prod(cells))
    near = CellValues(torch.from_numpy(table.reshape(-1, 3)[flat]), flat, cells, factors)
    asked, recorder = rng.permutation(np.prod(shape)), Recorder()
    labels, certain = near.labels(recorder, asked, shape)
    index = np.stack(np.unravel_index(asked, shape), 1)
    at = (index - (np.array(factors) - 1) / 2) / factors  # in cells
    within = ((at >= 0) & (at <= np.array(cells) - 1)).all(1)
    np.testing.assert_array_equal(certain, within)  # beyond the outer centres a corner is missing
    np.testing.assert_array_equal(labels, within)
    axes = [np.arange(n) for n in cells]
    expected = RegularGridInterpolator(axes, table)(at[within])
    np.testing.assert_allclose(recorder.values, expected, atol=1e-5)
    for row in rng.choice(len(expected), 20):  # the slow way
        low = np.floor(at[within][row]).astype(int)
        largest = np.zeros(3)
        for corner in np.ndindex(2, 2, 2):
            c = low + np.array(corner) * (np.array(factors) == 2)
            bend = np.zeros(3)
            for axis in np.flatnonzero(np.array(factors) == 2):
                step = np.eye(3, dtype=int)[axis]
                if 0 < c[axis] < cells[axis] - 1:
                    bend += np.abs(table[tuple(c + step)] + table[tuple(c - step)] - 2 * table[tuple(c)])
            largest = np.maximum(largest, QUARTER * bend)
        allowed = ROUNDING * (1 + np.abs(expected[row]))
        np.testing.assert_allclose(recorder.errors[row], DOUBT * largest + allowed, rtol=1e-4)


def test_where_a_corner_was_not_decoded_nothing_is_certain():
    cells = (4, 4, 4)
    flat = np.array([i for i in range(64) if i != 21])  # the cell 1, 1, 1
    near = CellValues(torch.zeros(63, 2), flat, cells, (2, 2, 2))
    _, certain = near.labels(Recorder(), np.arange(512), (8, 8, 8))
    unknown = np.argwhere(~certain.reshape(8, 8, 8)[1:7, 1:7, 1:7]) + 1
    np.testing.assert_array_equal([unknown.min(0), unknown.max(0)], [[1] * 3, [4] * 3])
    assert len(unknown) == 64


@pytest.mark.parametrize("tuned, barred", [(False, False), (True, False), (False, True), (True, True)])
def test_what_is_certain_holds_for_all_values_within_the_errors(tuned, barred):
    generator = torch.Generator().manual_seed(1)
    tuning = DecisionTuning(np.float32([0.5, -1, 0.2, 0]), np.float32([0, 9, 4, 0]), left_out_offset=-0.5)
    field = HeartField(
        ball(num_classes=1),
        LATENTS,
        decision_tuning=tuning if tuned else None,
        drawn_C=np.array([True, True, True, False]) if barred else None,
    )
    values = torch.randn(4000, 5, generator=generator)
    errors = torch.rand(4000, 5, generator=generator) * torch.tensor([0.3, 0.5, 0.5, 0.5, 0.5])
    labels, certain = field.labels_within(values, errors)
    assert 0.1 < certain.float().mean() < 0.9 and len(labels[certain].unique()) >= 4
    exact = field.labels_within(values, torch.zeros_like(values))
    assert torch.equal(exact[0], labels_of(*field._decide(values[:, 0], values[:, 1:]))) and exact[1].all()
    for _ in range(50):
        signs = torch.rand(4000, 5, generator=generator) * 2 - 1
        signs = torch.where(torch.rand(4000, 1, generator=generator) < 0.5, signs.sign(), signs)
        other = values + signs * errors
        found = labels_of(*field._decide(other[:, 0], other[:, 1:]))
        assert torch.equal(found[certain], labels[certain])


@pytest.mark.parametrize("factors", [(2, 2, 2), (2, 1, 2)])
def test_a_settled_cell_has_one_label_and_its_error_is_known(factors):
    """Cells between larger ones: every voxel in one that settles has its label; most of them settle."""
    field = HeartField(ball(), LATENTS)
    cells = (24, 24, 24)
    step = 2.0 / 24  # unit, of the larger cells

    def values_at(points):
        return torch.cat([t if t.ndim > 1 else t[:, None] for t in field._raw(points.astype(np.float32))], 1)

    centres = (np.stack(np.unravel_index(np.arange(24**3), cells), 1) + 0.5) * step - 1
    near = CellValues(values_at(centres), np.arange(24**3), cells, factors)
    finer = tuple(n * f for n, f in zip(cells, factors))
    reach = tuple(1 / 8 if f == 2 else 0.0 for f in factors)  # voxels: half as large again
    flat = np.arange(int(np.prod(finer)))
    sure, values, errors = near.settled(field, flat, finer, reach)
    assert 0.5 < sure.mean() < 1 and len(values) == len(errors) == sure.sum()
    index = np.stack(np.unravel_index(flat[sure], finer), 1)
    middle = (index + 0.5) / factors * step - 1
    exact = values_at(middle)
    assert bool(((values - exact).abs() <= DOUBT * errors + 1e-4 * (1 + exact.abs())).all())
    expected = field.decided(values)[1]
    for corner in np.ndindex(2, 2, 2):
        offset = (np.array(corner) - 0.5) * 2 * np.array(reach) * step
        np.testing.assert_array_equal(field.decided(values_at(middle + offset))[1], expected)


def test_errors_of_interpolated_cells_go_on_to_what_is_interpolated_between_them():
    table, flat = torch.zeros(64, 2), np.arange(64)
    errors = torch.zeros(64, 2)
    errors[21] = 0.5  # the cell 1, 1, 1
    recorder = Recorder()
    near = CellValues(table, flat, (4, 4, 4), (2, 2, 2), errors)
    asked = np.ravel_multi_index(np.array([[3, 3, 3], [4, 3, 3], [4, 4, 4]]).T, (8, 8, 8))
    near.labels(recorder, asked, (8, 8, 8))
    expected = DOUBT * 0.5 * torch.tensor([0.75**3, 0.75**2 * 0.25, 0.25**3]) + ROUNDING
    torch.testing.assert_close(recorder.errors[:, 0], expected)


def test_most_voxels_of_a_smooth_field_are_interpolated_and_right():
    frame = frame_of((160, 160, 160), (0.6, 0.6, 0.6))
    exact = decode_label_map(HeartField(ball(), LATENTS), frame, coarse=1)
    decoded = decode_label_map(HeartField(ball(), LATENTS), frame)
    np.testing.assert_array_equal(decoded.labels, exact.labels)
    assert not decoded.dense and decoded.interpolated > 0.6 * (decoded.voxels - decoded.skipped)


def test_a_field_that_is_not_smooth_between_the_cells_is_decoded():
    """A ripple of a period of two voxels: every cell has the same phase of it, so second differences do not show it."""
    frame = FRAMES["isotropic"]
    voxel = 0.95 / 40
    first = frame.voxel_to_unit(np.zeros(3))[0] + voxel / 2

    def distance(points):
        phase = (points - float(first)) / voxel * torch.pi
        return points.norm(dim=1) - 0.7 + 0.4 * voxel * torch.sin(phase[:, 0])

    model = FormulaModel(distance, lambda points: points[:, :2], 2)
    decoded = decode_label_map(HeartField(model, LATENTS), frame)
    exact = decode_label_map(HeartField(model, LATENTS), frame, coarse=1)
    np.testing.assert_array_equal(decoded.labels, exact.labels)
    assert decoded.interpolated == 0
