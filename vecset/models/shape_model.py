"""A linear model of the shapes of all structures together, fitted to labelled points of those that are seen.

A heart is the signed distances to its C structures. The model has their mean and K modes, each a principal component
times its standard deviation (vecset/metrics/shape_model_building.py makes it from training hearts):

    distance_c(x) = mean_c(s R x + t) + sum_k a_k mode_kc(s R x + t),     a_k ~ N(0, 1)

A point on the surface of structure c that is seen at x says that distance_c(x) is 0. Turn R, scale s, shift t and
weights a follow from all such points by Gauss-Newton steps with a robust loss: an active shape model (Cootes et al.
1995) of implicit surfaces (Tsai et al. 2003), conditioned on what is seen as a posterior shape model is (Albrecht et
al. 2013). What is not seen follows from the weights. It is a proposal: the network is shown it beside what is seen.

Shapes: B hearts, N points, Q places, C structures, K modes, P proposed points, V cells of all structures' grids
together. Lengths of points are those of the frame of what is seen; those of the model are about unit.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from vecset.common.structure_state import State

CLIP = 0.2  # distances of the model count as it beyond it: far from a structure, how far says little of its shape
FIT_POINTS = 512  # of what is seen, that the model is fitted to
STEPS, POSE_STEPS = 6, 2  # Gauss-Newton steps, the first of which leave the shape at the mean
NOISE = 0.04  # standard deviation of the distance at a point that is seen
POINTS_WORTH = 30.0  # all points of a structure together say as much as so many that err on their own
ROBUST = 0.05  # distances beyond it count less and less (soft L1)
HOLD = 25.0  # of a step of turn, shift and scale: what is seen may not decide them (the turn of a ball)
LONGEST_SCALING = 0.3  # of a step, as a logarithm
SURFACE_STEPS, LONGEST_MOVE = 2, 0.06  # of a template point to the surface that was fitted
PROPOSALS_SHARE = 0.25  # of the number of points that are seen
CORNERS = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]  # of a cell
UNUSED_AT = 100.0  # where nothing of the heart is: attention gives no weight to it


class ShapeFit(NamedTuple):
    """Where the model lies and how it is shaped: the model's place of x is scale turn x + shift."""

    turn_B33: torch.Tensor
    scale_B: torch.Tensor
    shift_B3: torch.Tensor
    weights_BK: torch.Tensor

    def to_model(self, points_BN3: torch.Tensor) -> torch.Tensor:
        return self._turned(points_BN3) + self.shift_B3.unsqueeze(1)

    def from_model(self, points_BN3: torch.Tensor) -> torch.Tensor:
        away = (points_BN3 - self.shift_B3.unsqueeze(1)) / self.scale_B[:, None, None]
        return away @ self.turn_B33

    def _turned(self, points_BN3):
        return points_BN3 @ self.turn_B33.transpose(1, 2) * self.scale_B[:, None, None]


class ShapeModel(nn.Module):
    """All of it are buffers, which a checkpoint holds.

    table_VK (V, 1 + K) f16: mean and modes at the cells of a grid round each structure, structure after structure, the
    last axis fastest; first_C: where a structure's cells begin; cells_C3: how many it has along each axis; low_C3:
    where the first lies; step: between cells; template_CT3 f16: points on a heart's surfaces; known_C: structures that
    the training hearts have."""

    def __init__(self, num_classes: int, cells: int, modes: int, template: int):
        """cells: V; template: points per structure. All is zero until `load`."""
        super().__init__()
        add = self.register_buffer
        add("table_VK", torch.zeros(cells, 1 + modes, dtype=torch.float16))
        add("first_C", torch.zeros(num_classes, dtype=torch.long))
        add("cells_C3", torch.full((num_classes, 3), 2))
        add("low_C3", torch.zeros(num_classes, 3))
        add("step", torch.ones(()))
        add("template_CT3", torch.zeros(num_classes, template, 3, dtype=torch.float16))
        add("known_C", torch.zeros(num_classes, dtype=torch.bool))
        add("corners_E3", torch.tensor(CORNERS), persistent=False)

    def load(self, arrays: Mapping) -> None:
        """Takes over arrays by the names of the buffers (vecset/data/shape_model_file.py)."""
        for name, buffer in self.named_buffers():
            if name in arrays:
                buffer.copy_(torch.as_tensor(arrays[name]))

    @property
    def num_modes(self) -> int:
        return self.table_VK.shape[1] - 1

    def distances(
        self, at_BN3: torch.Tensor, classes_BN: torch.Tensor, weights_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the structures `classes_BN` (from 0) at places of the model: their signed distances (B, N), the slopes of
        these (B, N, 3), and the modes there (B, N, K). Beyond a structure's grid, what its border says."""
        cells_BN3 = self.cells_C3[classes_BN]
        u = torch.nan_to_num((at_BN3 - self.low_C3[classes_BN]) / self.step)  # a fit that failed is dropped by `fit`
        u = torch.minimum(u.clamp_min(0), (cells_BN3 - 1) * (1 - 1e-6))
        cell = u.floor()
        part = u - cell  # in the cell, 0 to 1
        X, Y, Z = cell.long().unsqueeze(-2).add(self.corners_E3).unbind(-1)  # (B, N, 8) each
        _, ny, nz = cells_BN3.unsqueeze(-2).unbind(-1)
        rows_BNE = self.first_C[classes_BN].unsqueeze(-1) + (X * ny + Y) * nz + Z
        values_BNEK = self.table_VK[rows_BNE].float()
        far = self.corners_E3.bool()
        shares = torch.where(far, part.unsqueeze(-2), 1 - part.unsqueeze(-2))  # (B, N, 8, 3), of each axis
        signs = torch.where(far, 1.0, -1.0) / self.step
        x, y, z = shares.unbind(-1)
        slopes = torch.stack([signs[:, 0] * y * z, x * signs[:, 1] * z, x * y * signs[:, 2]], -1)  # (B, N, 8, 3)
        mean_modes = (x * y * z).unsqueeze(-2) @ values_BNEK  # (B, N, 1, 1 + K)
        modes_BNK = mean_modes[..., 0, 1:]
        shape_BNE = values_BNEK[..., 0] + (values_BNEK[..., 1:] @ weights_BK[:, None, :, None]).squeeze(-1)
        distance_BN = mean_modes[..., 0, 0] + (modes_BNK * weights_BK.unsqueeze(1)).sum(-1)
        return distance_BN, (shape_BNE.unsqueeze(-1) * slopes).sum(-2), modes_BNK

    @torch.no_grad()
    def field_of(self, weights_BK: torch.Tensor) -> torch.Tensor:
        """(B, V): the distances at all cells of all structures' grids."""
        return F.pad(weights_BK, (1, 0), value=1.0) @ self.table_VK.float().T

    def distances_in(self, field_BV: torch.Tensor, at_BQ3: torch.Tensor) -> torch.Tensor:
        """(B, Q, C): the signed distances to all structures at places of the model, from their `field_of`, with slopes
        in the places. Beyond a structure's grid, what its border says."""
        B, Q, _ = at_BQ3.shape
        u = (at_BQ3.unsqueeze(2) - self.low_C3) / self.step  # (B, Q, C, 3)
        u = torch.minimum(u.clamp_min(0), (self.cells_C3 - 1) * (1 - 1e-6))
        cell = u.detach().floor()
        X, Y, Z = cell.long().unbind(-1)
        x, y, z = (u - cell).unbind(-1)  # in the cell, 0 to 1
        _, ny, nz = self.cells_C3.unbind(-1)
        base_BQC = self.first_C + (X * ny + Y) * nz + Z
        total = torch.zeros_like(x)
        for i, j, k in CORNERS:
            rows_BQC = base_BQC + (i * ny + j) * nz + k
            share = (x if i else 1 - x) * (y if j else 1 - y) * (z if k else 1 - z)
            total = total + share * field_BV.gather(1, rows_BQC.view(B, -1)).view(B, Q, -1)
        return total

    @torch.no_grad()
    def fit(self, points_BN3: torch.Tensor, classes_BN: torch.Tensor) -> ShapeFit:
        """Of points on the surfaces of structures `classes_BN` (from 0). It starts where the bounding ball of what is
        seen lies as that of the same structures of the template does; hearts are taken to lie about as those of
        training did. Points of structures that the model does not know count nothing. Where no finite fit is found, the
        start stays."""
        C, K = len(self.known_C), self.num_modes
        seen_BNC = F.one_hot(classes_BN, C).bool() & self.known_C
        counts_BC = seen_BNC.sum(1)
        weight_BN = (seen_BNC / counts_BC.clamp_min(1).unsqueeze(1)).sum(-1) * (POINTS_WORTH / NOISE**2)
        start = fit = self._start(points_BN3, seen_BNC.any(-1), counts_BC > 0)
        hold = torch.cat([torch.full((7,), HOLD), torch.ones(K)]).to(points_BN3)
        for step in range(STEPS):
            turned = fit._turned(points_BN3)
            distance_BN, slope_BN3, modes_BNK = self.distances(
                turned + fit.shift_B3.unsqueeze(1), classes_BN, fit.weights_BK
            )
            if step < POSE_STEPS:
                modes_BNK = torch.zeros_like(modes_BNK)
            rows = [slope_BN3, torch.linalg.cross(turned, slope_BN3), (slope_BN3 * turned).sum(-1, keepdim=True)]
            jacobian = torch.cat([*rows, modes_BNK], -1)
            robust_BN = weight_BN / (1 + (distance_BN / ROBUST).square()).sqrt()
            weighted = jacobian * robust_BN.unsqueeze(-1)
            hessian = weighted.transpose(1, 2) @ jacobian + torch.diag(hold)
            gradient = (weighted * distance_BN.unsqueeze(-1)).sum(1)
            gradient = gradient + F.pad(fit.weights_BK, (7, 0))  # the prior holds the weights, not the pose
            move = -torch.linalg.solve_ex(hessian, gradient.unsqueeze(-1))[0].squeeze(-1)
            fit = ShapeFit(
                _turn_by(move[:, 3:6]) @ fit.turn_B33,
                fit.scale_B * move[:, 6].clamp(-LONGEST_SCALING, LONGEST_SCALING).exp(),
                fit.shift_B3 + move[:, :3],
                fit.weights_BK + move[:, 7:],
            )
        found_B = torch.stack([_rows(part).isfinite().all(1) for part in fit]).all(0)
        return ShapeFit(*(torch.where(_like(found_B, part), part, first) for part, first in zip(fit, start)))

    def _start(self, points_BN3, counted_BN, seen_BC):
        """The pose that lays the bounding ball of what is seen on that of the same structures of the template."""
        C, T = self.template_CT3.shape[:2]
        template = self.template_CT3.float().view(1, C * T, 3)
        middle_B3, radius_B = _ball(points_BN3, counted_BN)
        ours_B3, our_radius_B = _ball(template.expand(len(points_BN3), -1, -1), seen_BC.repeat_interleave(T, 1))
        scale_B = our_radius_B / radius_B.clamp_min(1e-6)
        turn = torch.eye(3, device=points_BN3.device).expand(len(points_BN3), 3, 3)
        weights = points_BN3.new_zeros(len(points_BN3), self.num_modes)
        return ShapeFit(turn, scale_B, ours_B3 - scale_B.unsqueeze(1) * middle_B3, weights)

    @torch.no_grad()
    def propose(self, fit: ShapeFit, classes_BP: torch.Tensor, rows_BP: torch.Tensor) -> torch.Tensor:
        """(B, P, 3), in the frame of what is seen: points `rows_BP` of the template of structures `classes_BP`, moved
        to the surface that was fitted, by LONGEST_MOVE at most."""
        start = at = self.template_CT3[classes_BP, rows_BP].float()
        for _ in range(SURFACE_STEPS):
            distance, slope, _ = self.distances(at, classes_BP, fit.weights_BK)
            at = at - slope * (distance / slope.square().sum(-1).clamp_min(0.25)).unsqueeze(-1)
            away = at - start
            at = start + away * (LONGEST_MOVE / away.norm(dim=-1, keepdim=True).clamp_min(LONGEST_MOVE))
        return fit.from_model(at)


def num_proposals(points: int) -> int:
    """How many points are proposed beside so many that are seen."""
    return max(1, round(PROPOSALS_SHARE * points))


class Proposed(NamedTuple):
    """What the encoder reads where there is a shape model: surface_BNF the points that are seen, then as many proposals
    for all hearts; places_BN3 where attention takes them to be; proposed_BN1 f32, 1 for a proposal. Of a heart that
    nothing is proposed for, these are seen points once more, so far away that no weight goes to them. And what they
    follow from: the fit, and the structures that are unknown or cut (wanted_BC bool)."""

    surface_BNF: torch.Tensor
    places_BN3: torch.Tensor
    proposed_BN1: torch.Tensor
    fit: ShapeFit
    wanted_BC: torch.Tensor


@torch.no_grad()
def with_proposals(model: ShapeModel, surface_BNF: torch.Tensor, states_BC: torch.Tensor) -> Proposed:
    """Adds points of the structures that are unknown or cut, equal numbers of each, from what is seen alone."""
    B, N = surface_BNF.shape[:2]
    P, T, device = num_proposals(N), model.template_CT3.shape[1], surface_BNF.device
    with torch.autocast(device.type, enabled=False):
        some = surface_BNF[:, _spread(N, min(N, FIT_POINTS), device)].float()
        fit = model.fit(some[..., :3], some[..., 3:].argmax(-1))
        wanted_BC = ((states_BC == State.UNKNOWN) | (states_BC == State.CUT)) & model.known_C
        count_B1 = wanted_BC.sum(1, keepdim=True)
        first_BC = wanted_BC.to(torch.int8).sort(dim=1, descending=True, stable=True).indices
        slot_P = torch.arange(P, device=device)
        classes_BP = first_BC.gather(1, slot_P % count_B1.clamp_min(1))
        places_BP3 = model.propose(fit, classes_BP, slot_P // count_B1.clamp_min(1) % T)
    features = F.one_hot(classes_BP, len(model.known_C))
    proposals = torch.cat([places_BP3, features.to(places_BP3.dtype)], -1).to(surface_BNF.dtype)
    again = surface_BNF[:, _spread(N, P, device)]
    used_B11 = (count_B1 > 0).unsqueeze(-1)
    surface = torch.cat([surface_BNF, torch.where(used_B11, proposals, again)], 1)
    places = torch.where(used_B11, surface[:, N:, :3], UNUSED_AT)
    proposed = used_B11.expand(B, P, 1).to(surface.dtype)
    places_BN3 = torch.cat([surface_BNF[..., :3], places], 1)
    return Proposed(surface, places_BN3, F.pad(proposed, (0, 0, N, 0)), fit, wanted_BC)


def _rows(part):
    return part.reshape(len(part), -1)


def _like(chosen_B, part):
    """(B, 1, ...) with as many axes as `part`."""
    return chosen_B.view(-1, *[1] * (part.ndim - 1))


def _spread(total, count, device):
    """`count` row numbers from 0 to total - 1, evenly spread."""
    return torch.linspace(0, total - 1, count, device=device).round().long()


def _ball(points_BN3, counted_BN):
    """Middle (B, 3) of the bounding box and largest distance from it (B,), of the points that count; 0 and 0 where
    none does."""
    counted = counted_BN.unsqueeze(-1)
    low = torch.where(counted, points_BN3, torch.inf).amin(1)
    high = torch.where(counted, points_BN3, -torch.inf).amax(1)
    middle = torch.where(counted_BN.any(1, keepdim=True), (low + high) / 2, 0.0)
    away = torch.where(counted, points_BN3 - middle.unsqueeze(1), 0.0)
    return middle, away.square().sum(-1).amax(1).sqrt()


def _turn_by(vector_B3):
    """(B, 3, 3) rotations by rotation vectors (Rodrigues)."""
    angle = vector_B3.norm(dim=-1).clamp_min(1e-9)[:, None, None]
    x, y, z = (vector_B3 / angle.squeeze(-1)).unbind(-1)
    o = torch.zeros_like(x)
    cross = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).view(-1, 3, 3)
    eye = torch.eye(3, device=vector_B3.device)
    return eye + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)
