"""From points to tokens: Fourier features of coordinates, and where latents lie: farthest point sampling, or learned
places."""

import functools
import importlib.util
import math
import re
import warnings

import torch
from torch import nn

from vecset.common.errors import InputError

FREQUENCIES = 8  # 2^k pi for k = 0..7 per axis, as in the public release


def surface_features(points_BN3: torch.Tensor, labels_BN: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The 3 + C numbers of a surface point: coordinates (unit) and a one-hot of its class id (1..C)."""
    one_hot = torch.nn.functional.one_hot(labels_BN.long() - 1, num_classes).to(points_BN3.dtype)
    return torch.cat([points_BN3, one_hot], dim=-1)


class PointEmbed(nn.Module):
    """(B, N, 3 + F) -> (B, N, D): sines, then cosines, of 24 projections (2^k pi, k = 0..7, per axis), the coordinates,
    and F further numbers, through one linear layer. `basis` (3, 24) and `mlp` are named as in the public release."""

    def __init__(self, dim: int, num_features: int = 0):
        super().__init__()
        basis = torch.zeros(3, 3 * FREQUENCIES)
        for axis in range(3):
            basis[axis, axis * FREQUENCIES : (axis + 1) * FREQUENCIES] = 2.0 ** torch.arange(FREQUENCIES) * math.pi
        self.register_buffer("basis", basis)
        self.mlp = nn.Linear(2 * basis.shape[1] + 3 + num_features, dim)

    def features(self, points_BNF: torch.Tensor) -> torch.Tensor:
        """(B, N, 51 + F): the input of the linear layer."""
        # float32 throughout: under bf16 autocast the phase 2^7 pi x would keep no digit of its fraction
        with torch.autocast(points_BNF.device.type, enabled=False):
            points_BNF = points_BNF.to(self.basis.dtype)
            phase = points_BNF[..., :3] @ self.basis
            return torch.cat([phase.sin(), phase.cos(), points_BNF], dim=-1)

    def forward(self, points_BNF: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.features(points_BNF))


def parse_density(text: str, num_classes: int) -> torch.Tensor | None:
    """ "9:3,10:2" -> (C,) float32 with 3 for class 9, 2 for class 10 and 1 for the others; "" -> None."""
    if not text:
        return None
    density_C = torch.ones(num_classes)
    for part in text.split(","):
        match = re.fullmatch(r"(\d+):(\d*\.?\d+)", part.strip())
        if not match or not 1 <= int(match[1]) <= num_classes or not 0 < float(match[2]) <= 100:
            raise InputError(
                "--fps_density",
                f"CLASS:FACTOR,... with classes 1..{num_classes} and factors up to 100",
                repr(part),
                'for example "9:3,10:2"',
            )
        density_C[int(match[1]) - 1] = float(match[2])
    return density_C


def spread_in_ball(num_points: int) -> torch.Tensor:
    """(num_points, 3) evenly spread in the unit ball: the R3 sequence (Roberts 2018: steps of 1/g, 1/g^2, 1/g^3 with
    g^4 = g + 1) as volume fraction within the radius, height and longitude."""
    g = 1.2207440846057596
    index = torch.arange(1, num_points + 1, dtype=torch.float64)
    fraction, height, turn = ((0.5 + index / g**k) % 1.0 for k in (1, 2, 3))
    height, angle = 2 * height - 1, 2 * math.pi * turn
    ring = (1 - height.square()).sqrt()
    return (fraction[:, None] ** (1 / 3) * torch.stack([ring * angle.cos(), ring * angle.sin(), height], -1)).float()


@torch.no_grad()
def farthest_point_sampling(
    points_BN3: torch.Tensor,
    num_samples: int,
    labels_BN: torch.Tensor | None = None,
    fps_class_gap: float = 0.0,
    density_K: torch.Tensor | None = None,
    first_of: int | None = None,
) -> torch.Tensor:
    """(B, num_samples) indices of points, each the farthest from those before it (Eldar et al., 1997; greedy
    2-approximation of the k-centre problem). Starts at the point farthest from the mean, so the set does not depend on
    the order of the points (ties aside). O(N num_samples).

    first_of: the mean is that of so many first points, and so is the start, one of them; None: of all.

    fps_class_gap: the distance of two points of different `labels_BN` is sqrt(their distance^2 + fps_class_gap^2).
    density_K: points of label k count as density_K[k] times as far from all others as they are, and so lie that many
    times as close in the end.
    On a GPU it is one kernel (farthest_points_cuda.py)."""
    N = points_BN3.shape[1]
    if num_samples > N:
        raise ValueError(f"{num_samples} samples of {N} points")
    points_BN3 = points_BN3.float()
    own_BN3 = points_BN3[:, :first_of]
    first_B = (own_BN3 - own_BN3.mean(1, keepdim=True)).square().sum(-1).argmax(1)
    stretch_BN = None if density_K is None else density_K.to(points_BN3)[labels_BN].square()
    kernel = _kernel(points_BN3.device) if points_BN3.is_cuda else None
    if kernel and N <= kernel.MOST_POINTS:
        return kernel.farthest_points(
            points_BN3,
            torch.ones_like(points_BN3[..., 0]) if stretch_BN is None else stretch_BN,
            torch.zeros_like(points_BN3[..., 0]) if labels_BN is None else labels_BN,
            fps_class_gap,
            first_B,
            num_samples,
        )
    return _one_after_the_other(points_BN3, stretch_BN, labels_BN, fps_class_gap, first_B, num_samples)


@functools.cache
def _kernel(device):
    """The module with the GPU's kernel; None where there is no Triton, or where it cannot build a kernel for `device`
    (Triton needs a C compiler), which is said once."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from vecset.models import farthest_points_cuda

        two_12 = torch.ones(1, 2, device=device)
        farthest_points_cuda.farthest_points(
            torch.zeros(1, 2, 3, device=device), two_12, two_12, 0.0, torch.zeros(1, dtype=torch.long, device=device), 1
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler and a driver can say
        said = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"latents are chosen by the slow loop, Triton builds no kernel here: {said}", stacklevel=2)
        return None
    return farthest_points_cuda


def _one_after_the_other(points_BN3, stretch_BN, labels_BN, fps_class_gap, first_B, num_samples):
    """The loop that chooses. Axis after axis in buffers that stay, which takes a third of the time of whole points."""
    rows = torch.arange(len(points_BN3), device=points_BN3.device)
    chosen_MB = torch.empty(num_samples, len(points_BN3), dtype=torch.long, device=points_BN3.device)
    values_KBN = points_BN3.movedim(-1, 0).contiguous()
    if fps_class_gap:
        values_KBN = torch.cat([values_KBN, labels_BN.to(points_BN3.dtype).unsqueeze(0)])
    nearest_BN = torch.full_like(values_KBN[0], torch.inf)
    square_BN, apart_BN = torch.empty_like(nearest_BN), torch.empty_like(nearest_BN)
    for m in range(num_samples):
        index_B = first_B if m == 0 else nearest_BN.argmax(1)
        chosen_MB[m] = index_B
        of_KB1 = values_KBN[:, rows, index_B].unsqueeze(-1)
        torch.sub(values_KBN[0], of_KB1[0], out=square_BN)
        square_BN.square_()
        for axis in (1, 2):
            torch.sub(values_KBN[axis], of_KB1[axis], out=apart_BN)
            square_BN.addcmul_(apart_BN, apart_BN)
        if stretch_BN is not None:
            square_BN.mul_(stretch_BN)
        if fps_class_gap:
            torch.ne(values_KBN[3], of_KB1[3], out=apart_BN)
            square_BN.add_(apart_BN, alpha=fps_class_gap**2)
        torch.minimum(nearest_BN, square_BN, out=nearest_BN)
    return chosen_MB.T.contiguous()
