"""The two cross-attentions without a wide token per point: the same function with fewer operations.

A point's token is a linear map of its 52 + C numbers (Fourier features, coordinates, one-hot, and a 1), so the linear
layers that follow it can be multiplied with it once per step, instead of being applied to every point:

encoder   of models without anchors, as published: keys and values are linear in the numbers of a surface point. The
          keys' map goes to the queries' side, where it meets M latents and not N points, and the values' map behind the
          sum over points. Attention reads the numbers themselves, one set for all heads; a constant in the keys drops
          out of softmax.
decoder   of all models: between the token of a query and `to_q` stands a layer norm. It is linear but for the standard
          deviation over the token's D entries, which is a quadratic form in the 52 numbers.

The sums are the same in another order: float32 results agree to about 1e-6 (tests/models/test_folding.py; a token per
point, `model.fold = False`, is the reference). Without the encoder's part a training step at width 1024, 1,024 latents
and 8,192 points has 25 % more operations at depth 2, 4 % more at depth 24.
"""

import torch
import torch.nn.functional as F

from vecset.models import attention

_CHANNELS = 8  # head sizes stay multiples of it, which keeps fused kernels on their fast path


def read_points(block, embed, latents_BMD: torch.Tensor, surface_BNF: torch.Tensor) -> torch.Tensor:
    """`block(latents, context=embed(surface))` for a PreNorm of Attention without places: (B, M, D)."""
    layer, x = block.fn, block.norm(latents_BMD)
    q_BHMd = layer._heads(layer.to_q(x))
    with torch.autocast(x.device.type, enabled=False):
        kv_map = layer.to_kv.weight @ embed.mlp.weight  # (2 D, F)
        k_map, v_map = (m.unflatten(0, (layer.heads, layer.head_dim)) for m in kv_map.chunk(2))  # (H, d, F)
        features_BNF = embed.features(surface_BNF)
        pad = -features_BNF.shape[-1] % _CHANNELS
        q_BHMF = F.pad(q_BHMd.to(k_map.dtype) @ k_map, (0, pad))
        features_BNF = F.pad(features_BNF, (0, pad))
        constant_HD = layer.to_kv(embed.mlp.bias).chunk(2)[1].unflatten(0, (layer.heads, layer.head_dim))
    dtype = q_BHMd.dtype  # that of the autocast, where there is one
    q, points = q_BHMF.to(dtype), features_BNF.to(dtype).unsqueeze(1)
    # heads share the points, so they are further rows of queries
    read = attention.fused_attention(q.flatten(1, 2).unsqueeze(1), points, points, layer.scale).view_as(q)
    with torch.autocast(x.device.type, enabled=False):
        read_BHMF = read[..., : v_map.shape[-1]].to(v_map.dtype)
        attended_BHMd = read_BHMF @ v_map.mT + constant_HD.unsqueeze(1)
    return layer.to_out(attended_BHMd.to(dtype).transpose(1, 2).flatten(-2))


def queries_of_points(block, embed, queries_BQ3: torch.Tensor) -> torch.Tensor:
    """`block.fn.to_q(block.norm(embed(queries)))` for a PreNorm of Attention: (B, Q, D)."""
    norm, layer = block.norm, block.fn
    with torch.autocast(queries_BQ3.device.type, enabled=False):
        features = embed.features(queries_BQ3)
        features = torch.cat([features, torch.ones_like(features[..., :1])], -1)  # (B, Q, 52)
        token_map = torch.cat([embed.mlp.weight, embed.mlp.bias.unsqueeze(1)], 1)  # (D, 52)
        centred = token_map - token_map.mean(0)
        # in float64: the 52 x 52 terms of a variance may cancel
        form = (centred.double().mT @ centred.double()) / len(centred)
        wide = features.double()
        variance = ((wide @ form) * wide).sum(-1, keepdim=True)
        features = features * (variance + norm.eps).rsqrt().to(features.dtype)
        weight = layer.to_q.weight @ (norm.weight.unsqueeze(1) * centred)  # (D, 52)
        bias = layer.to_q.weight @ norm.bias
    return F.linear(features, weight, bias)
