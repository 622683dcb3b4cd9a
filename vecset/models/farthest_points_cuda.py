"""Farthest point sampling on a GPU in one kernel launch: one program per case.

The loop of embedding.py starts a dozen small kernels for every sample, a thousand times per training step: it is bound
by kernel launches. The arithmetic here is the loop's, but for the order in which a GPU may add three squares: the last
bit of a distance can differ, and so the choice between two points that are equally far. It is its own file because
Triton (https://triton-lang.org), which comes with PyTorch's CUDA builds, reads the source of the kernel.
"""

import torch
import triton
import triton.language as tl

MOST_POINTS = 1 << 16  # of a case; more than 16,384 have not been tried


@triton.jit
def _farthest_points(
    points_BN3, labels_BN, stretch_BN, first_B, chosen_BM, N, square_gap, M: tl.constexpr, BLOCK: tl.constexpr
):
    case = tl.program_id(0).to(tl.int64)
    points, labels, stretches, chosen = (
        points_BN3 + case * N * 3,
        labels_BN + case * N,
        stretch_BN + case * N,
        chosen_BM + case * M,
    )
    row = tl.arange(0, BLOCK)
    inside = row < N
    x = tl.load(points + row * 3, inside, 0.0)
    y = tl.load(points + row * 3 + 1, inside, 0.0)
    z = tl.load(points + row * 3 + 2, inside, 0.0)
    label = tl.load(labels + row, inside, 0)
    stretch = tl.load(stretches + row, inside, 0.0)
    nearest = tl.where(inside, float("inf"), -1.0)
    index = tl.load(first_B + case)
    for m in range(M):
        tl.store(chosen + m, index)
        dx = x - tl.load(points + index * 3)
        dy = y - tl.load(points + index * 3 + 1)
        dz = z - tl.load(points + index * 3 + 2)
        square = (dx * dx + dy * dy + dz * dz) * stretch
        square += tl.where(label != tl.load(labels + index), square_gap, 0.0)
        nearest = tl.where(inside, tl.minimum(nearest, square), -1.0)
        index = tl.argmax(nearest, 0).to(tl.int64)


def farthest_points(points_BN3, stretch_BN, labels_BN, fps_class_gap, first_B, num_samples):
    """(B, num_samples) int64 indices, the first of them `first_B`; arguments as in embedding.py, all on one GPU, with
    at most MOST_POINTS points."""
    B, N, _ = points_BN3.shape
    chosen_BM = torch.empty(B, num_samples, dtype=torch.long, device=points_BN3.device)
    block = triton.next_power_of_2(N)
    with torch.cuda.device_of(points_BN3):
        _farthest_points[(B,)](
            points_BN3.contiguous(),
            labels_BN.to(torch.int32).contiguous(),
            stretch_BN.contiguous(),
            first_B,
            chosen_BM,
            N,
            float(fps_class_gap) ** 2,
            M=num_samples,
            BLOCK=block,
            num_warps=min(32, max(4, block // 256)),
            enable_fp_fusion=False,
        )  # a fused multiply-add rounds otherwise than the loop does
    return chosen_BM
