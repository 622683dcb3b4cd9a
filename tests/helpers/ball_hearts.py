"""Hearts of disjoint balls, one per class: the distance to every class is a formula, the union's the smallest."""

import torch

from vecset.common.structure_state import ABSENT_DISTANCE


def ball_heart_batch(B=2, C=3, N=60, near=20, vol=40, absent=(), seed=0, dtype=torch.float32):
    """A batch as `CaseDataset` gives it, with class distances. Each class is a ball whose place and size differ from
    heart to heart. absent: ids of classes that no heart has, though all are annotated."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1

    def directions(*shape):
        vectors = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
        return vectors / vectors.norm(dim=-1, keepdim=True)

    turn = 2 * torch.pi * torch.arange(C) / C
    ring = torch.stack([turn.cos(), turn.sin(), 0 * turn], -1).double() * 0.55
    centre_BC3 = ring + 0.05 * uniform(B, C, 3)
    radius_BC = 0.25 + 0.05 * uniform(B, C)
    present = torch.tensor([c + 1 not in absent for c in range(C)])

    def distances(points_BQ3):
        sdf_BQC = (points_BQ3.unsqueeze(2) - centre_BC3.unsqueeze(1)).norm(dim=-1) - radius_BC.unsqueeze(1)
        return torch.where(present, sdf_BQC, ABSENT_DISTANCE)

    def on_surfaces(count, offset):
        classes = torch.nonzero(present).squeeze(1)
        class_BQ = classes[torch.randint(len(classes), (B, count), generator=generator)]
        rows = torch.arange(B).unsqueeze(1)
        reach = radius_BC[rows, class_BQ].unsqueeze(-1) + offset * uniform(B, count, 1)
        return centre_BC3[rows, class_BQ] + reach * directions(B, count), class_BQ + 1

    surface_BN3, labels_BN = on_surfaces(N, 0.0)
    queries_BQ3 = torch.cat([on_surfaces(near, 0.08)[0], uniform(B, vol, 3)], 1)
    query_BQC = distances(queries_BQ3)
    union_BQ, nearest_BQ = query_BQC.min(-1)
    inside_BQ = union_BQ < 0
    group_BQ = torch.where(torch.arange(near + vol) < near, 0, torch.where(inside_BQ, 1, 2))
    batch = {
        "surface_points": surface_BN3,
        "surface_labels": labels_BN,
        "surface_sdf": torch.zeros(B, N),
        "surface_class_sdf": distances(surface_BN3),
        "query_points": queries_BQ3,
        "query_sdf": union_BQ,
        "query_class_sdf": query_BQC,
        "query_labels": torch.where(inside_BQ, nearest_BQ + 1, 0),
        "query_group": group_BQ,
        "annotated": torch.ones(B, C, dtype=torch.bool),
    }
    # rounded to float32 in every dtype, as places of latents are
    return {name: value.float().to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
