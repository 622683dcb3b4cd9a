"""The kernel for farthest point sampling against the loop, on a device."""

import torch

from vecset.models import embedding

CASES = [  # points, samples, classes (0: no labels), gap, densities
    (37, 37, 0, 0.0, None),
    (300, 64, 3, 2.0, None),
    (1000, 128, 3, 2.0, (1.0, 4.0, 1.5)),
    (129, 40, 2, 0.3, (1.0, 2.0)),
]


def check(device):
    from vecset.models import farthest_points_cuda  # needs Triton

    for N, M, classes, gap, densities in CASES:
        torch.manual_seed(N)
        points_BN3 = torch.rand(3, N, 3, device=device) * 2 - 1
        labels_BN = torch.randint(0, max(classes, 1), (3, N), device=device)
        stretch_BN = torch.tensor(densities or (1.0,) * max(classes, 1), device=device)[labels_BN].square()
        first_B = torch.tensor([0, N - 1, N // 2], device=device)
        ours = farthest_points_cuda.farthest_points(points_BN3, stretch_BN, labels_BN, gap, first_B, M)
        loop = embedding._one_after_the_other(points_BN3, stretch_BN, labels_BN, gap, first_B, M)
        assert torch.equal(ours, loop), (N, M, classes)
        assert all(len(set(row)) == M for row in ours.tolist())
