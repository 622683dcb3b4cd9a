"""Small models of every kind that `build_model` makes, and a batch for them."""

import torch

from vecset.models.autoencoder import build_model

VARIANTS = [
    ("learnable_vec8x4_dim128_depth2_nb", {}),
    ("point_vec8x4_dim128_depth1_kl", {}),
    ("learnable_vec8_dim32_depth1", {}),
    ("learnable_vec8x4_dim128_depth1_nb", dict(anchors=True, decoder_layers=1)),
    ("point_vec8x4_dim128_depth1_nb", dict(anchors=True, decoder_layers=2)),
    ("point_vec8x4_dim128_depth1_nb", dict(anchors=True, rotary=True, fps_class_gap=2.0)),
    ("learnable_vec8x4_dim128_depth1_nb", dict(anchors=True, rotary=True, decoder_layers=1)),
]
CLASS_DISTANCE_VARIANTS = [
    ("point_vec8x4_dim128_depth1_nb", dict(anchors=True, rotary=True, class_outputs="distances")),
    ("learnable_vec8x4_dim32_depth1_kl", dict(class_outputs="both")),
    ("point_vec20x4_dim32_depth1_kl", dict(network="per_class", decoder_layers=1)),
    ("point_vec20x4_dim128_depth2_nb", dict(anchors=True, rotary=True, network="parts")),
]


def with_class_distances(items, C=10):
    """The batch with distances to C classes that are any numbers."""
    generator = torch.Generator().manual_seed(4)
    for group, like in (("query", items["query_sdf"]), ("surface", items["surface_sdf"])):
        drawn = torch.rand(*like.shape, C, generator=generator) * 2 - 1
        items[f"{group}_class_sdf"] = drawn.to(like)
    return items


def batch(B=2, N=40, Q=30, C=10, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)

    def uniform(*shape):  # drawn in float32, so that the numbers are the same in every dtype
        return (torch.rand(*shape, generator=generator) * 2 - 1).to(dtype)

    return {
        "surface_points": uniform(B, N, 3),
        "surface_labels": torch.randint(1, C + 1, (B, N), generator=generator),
        "surface_sdf": -uniform(B, N).abs(),
        "query_points": uniform(B, Q, 3),
        "query_sdf": uniform(B, Q),
        "query_labels": torch.randint(0, C + 1, (B, Q), generator=generator),
        "query_group": torch.arange(Q).remainder(3).expand(B, Q),
        "annotated": torch.ones(B, C, dtype=torch.bool),
    }


def randomised(name, options, dtype=torch.float32, seed=0):
    """A model whose zero-initialised output layer is randomised: at zero every other gradient vanishes and a test of
    gradients proves nothing. The same numbers in every dtype."""
    torch.manual_seed(seed)
    model = build_model(name, 10, **options)
    with torch.no_grad():
        for parameter in model.to_outputs.parameters():
            parameter.normal_(0, 0.3)
    return model.to(dtype)
