"""A model whose field is a formula: a test double with the interface of docs/design.md."""

import torch


class FormulaModel(torch.nn.Module):
    """`distance(points (Q, 3)) -> (Q,)` in unit and `logits(points) -> (Q, C)` stand for a trained network; the code
    is one latent of three numbers, a shift of both."""

    def __init__(self, distance, logits, num_classes):
        super().__init__()
        self.distance, self.logits, self.num_classes = distance, logits, num_classes
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.largest_batch = 0

    def encode(self, surface_BNF):
        middle_B3 = (surface_BNF[..., :3].amax(1) + surface_BNF[..., :3].amin(1)) / 2
        return middle_B3.unsqueeze(1)

    def process_latents(self, latents_BML):
        return latents_BML[:, 0]

    def decode(self, context, queries_BQ3):
        self.largest_batch = max(self.largest_batch, queries_BQ3.shape[1])
        points = queries_BQ3[0] - context[0]
        return self.distance(points).unsqueeze(0), self.logits(points).unsqueeze(0)


def ball(radius=0.7, num_classes=8):
    """A ball of `radius` round the origin; classes by octant, nearly (8), halves (2) or one (1)."""
    bits = {8: 3, 2: 1, 1: 0}[num_classes]
    middle = torch.tensor([0.00317, -0.00271, 0.00129])  # no voxel lies on a border, where rounding would decide

    def logits(points):
        parts = [torch.zeros(len(points), num_classes)]
        for bit in range(bits):
            side = torch.tensor([1.0 if (c >> bit) & 1 else -1.0 for c in range(num_classes)])
            parts.append(20 * (points - middle)[:, bit : bit + 1] * side)
        return sum(parts)

    return FormulaModel(lambda points: points.norm(dim=1) - radius, logits, num_classes)
