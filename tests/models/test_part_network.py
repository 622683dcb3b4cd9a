"""A field per structure: against a loop over hearts and classes, and what may and may not depend on what."""

import pytest
import torch
from helpers.ball_hearts import ball_heart_batch

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.engines.losses import safe_norm
from vecset.models import attention
from vecset.models.attention import Places
from vecset.models.autoencoder import build_model
from vecset.models.embedding import farthest_point_sampling, surface_features
from vecset.models.labels import UNKNOWN_LOGIT

NETWORKS = ["per_class", "parts"]
KINDS = [
    ("point_vec12x4_dim128_depth2_nb", dict(anchors=True, rotary=True)),
    ("point_vec12x4_dim32_depth3_kl", dict(decoder_layers=1)),
    ("learnable_vec14x4_dim32_depth2_nb", dict(anchors=True, decoder_layers=1)),
    ("learnable_vec12_dim32_depth2", {}),
]


def network(kind=KINDS[0], parts="parts", dtype=torch.float32, C=3):
    """A network whose weights are all random: at zero most gradients vanish."""
    torch.manual_seed(0)
    model = build_model(kind[0], C, network=parts, **kind[1])
    with torch.no_grad():
        for parameter in model.to_outputs.parameters():
            parameter.normal_(0, 0.3)
        if parts == "parts":
            model.absent.normal_(0, 0.3)
    return model.to(dtype).eval()


def heart(**options):
    data = ball_heart_batch(**options)
    return surface_features(data["surface_points"], data["surface_labels"], 3), data["query_points"]


def reference(model, surface_BNF, queries_BQ3):
    """Class distances (B, Q, C) by loops over hearts and classes, with plain attention and a token per point."""
    C, m = model.num_classes, model.num_latents // model.num_classes
    hearts = []
    for surface_NF, queries_Q3 in zip(surface_BNF, queries_BQ3):
        tokens, places, given = [], [], []
        for c in range(C):
            own_KF = surface_NF[surface_NF[:, 3 + c] == 1]
            given.append(len(own_KF) > 0)
            if not given[c]:
                own_KF = torch.zeros(1, 3 + C).to(surface_NF)
                own_KF[0, 3 + c] = 1
            n = len(surface_NF) // C
            own_1nF = torch.stack([own_KF[i * len(own_KF) // n] for i in range(n)]).unsqueeze(0)
            anchors_1m3 = None
            if model.query_type == "point":
                rows = farthest_point_sampling(own_1nF[..., :3], m)[0]
                x = model.point_embed(own_1nF[:, rows])
                anchors_1m3 = own_1nF[:, rows, :3]
            else:
                x = model.latents.weight.unsqueeze(0)
                if model.anchored:
                    anchors_1m3 = model.anchors.unsqueeze(0)
                    x = x + model.query_embed(anchors_1m3)
                x = x + model.class_embed.weight[c]
            attend, feed_forward = model.cross_attend_blocks
            where = Places(anchors_1m3, own_1nF[..., :3], model.encoder_gain.exp()) if model.anchored else None
            x = attend(x, context=model.point_embed(own_1nF), places=where) + x
            x = feed_forward(x) + x
            x = model.bottleneck.post(model.bottleneck.pre(x)[0])
            if model.query_type == "learnable":
                x = x + model.latents.weight
            if model.anchored:
                x = x + model.query_embed(anchors_1m3)
            if not given[c] and model.parts:
                x = model.absent.expand_as(x)
                anchors_1m3 = anchors_1m3 if model.query_type == "learnable" else anchors_1m3 * 0
            tokens.append(x + model.class_embed.weight[c])
            places.append(anchors_1m3)
        for number, (attend, feed_forward) in enumerate(model.layers):
            alternating = model.parts and number in (1, 3, 5)
            for group in [list(range(C))] if alternating else [[c] for c in range(C)]:
                x = torch.cat([tokens[c] for c in group], 1)
                at = torch.cat([places[c] for c in group], 1) if model.rotary else None
                x = attend(x, places=Places(at, at) if model.rotary else None) + x
                x = feed_forward(x) + x
                for c, part in zip(group, x.split(m, 1)):
                    tokens[c] = part
        columns = []
        for c in range(C):
            block, embedded = model.decoder_cross_attn, model.query_embed(queries_Q3.unsqueeze(0))
            where = None
            if model.anchored:
                where = Places(queries_Q3.unsqueeze(0), places[c], model.decoder_gain.exp())
            x = block(embedded, context=tokens[c], places=where)
            if model.rotary or len(model.decoder_layers):
                x = x + embedded
            for feed_forward in model.decoder_layers:
                x = feed_forward(x) + x
            distance_Q = model.to_outputs(x)[0, :, 0]
            columns.append(distance_Q if given[c] else torch.full_like(distance_Q, ABSENT_DISTANCE))
        hearts.append(torch.stack(columns, -1))
    return torch.stack(hearts)


@pytest.mark.parametrize("parts", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absent", [(), (2,)])
def test_equals_the_loop_over_classes(kind, parts, absent, monkeypatch):
    """Values, and the gradients of distances and of slopes, in every parameter."""
    surface, queries = heart(absent=absent, dtype=torch.float64)
    model = network(kind, parts, torch.float64)
    outputs = model(surface, queries, queries[:, :5])
    given = outputs["present_BC"]
    slopes = torch.where(given[:, None, :, None], outputs["class_gradient_BEC3"], 0.0)
    weight = torch.linspace(-1, 1, queries.shape[1], dtype=torch.float64).unsqueeze(-1)

    def gradients(distances, slopes):
        total = (distances * weight).square().sum() + (safe_norm(slopes) - 1).square().sum()
        found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(model.named_parameters(), found)}

    fast = gradients(outputs["class_sdf_BQC"], slopes)
    monkeypatch.setattr(attention, "fused_attention", attention.plain_attention)
    leaf = queries.clone().requires_grad_(True)
    expected = reference(model, surface, leaf)
    by_class = [torch.autograd.grad(expected[:, :5, c].sum(), leaf, create_graph=True)[0][:, :5]
                if expected[..., c].requires_grad and given[:, c].any() else torch.zeros_like(leaf[:, :5])
                for c in range(3)]  # fmt: skip
    slow = gradients(expected, torch.stack(by_class, 2))
    torch.testing.assert_close(outputs["class_sdf_BQC"], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slopes, torch.stack(by_class, 2), rtol=1e-8, atol=1e-8)
    silent = {"bottleneck.logvar_proj.weight", "bottleneck.logvar_proj.bias"} | (set() if absent else {"absent"})
    for name, gradient in slow.items():
        assert (gradient.norm() > 0) == (name not in silent), name
        assert (fast[name] - gradient).norm() <= 1e-8 * gradient.norm() + 1e-12, name


@pytest.mark.parametrize("parts", NETWORKS)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_classes_in_another_order_give_the_same_fields_in_that_order(kind, parts):
    """The one-hot columns of the surface points and the embeddings of the classes go with their classes."""
    model, (surface, queries), order = network(kind, parts, torch.float64), heart(dtype=torch.float64), [2, 0, 1]
    columns = [0, 1, 2] + [3 + c for c in order]
    with torch.no_grad():
        expected = model(surface, queries)["class_sdf_BQC"][..., order]
        model.class_embed.weight.copy_(model.class_embed.weight[order].clone())
        fourier = model.point_embed.mlp.in_features - 3
        own = [*range(fourier), *(fourier + c for c in order)]
        model.point_embed.mlp.weight.copy_(model.point_embed.mlp.weight[:, own].clone())
        torch.testing.assert_close(model(surface[..., columns], queries)["class_sdf_BQC"], expected)
    assert (expected[..., 0] - expected[..., 1]).abs().max() > 1e-3


@pytest.mark.parametrize("parts", NETWORKS)
def test_what_depends_on_the_other_classes(parts):
    model, (surface, queries) = network(parts=parts), heart()
    moved = surface.clone()
    moved[..., 0] += 0.1 * moved[..., 3 + 1]  # the points of class 2
    with torch.no_grad():
        before, after = (model(points, queries)["class_sdf_BQC"] for points in (surface, moved))
    change_C = (before - after).abs().amax((0, 1))
    assert change_C[1] > 1e-3
    assert (change_C[[0, 2]] == 0).all() if parts == "per_class" else (change_C[[0, 2]] > 1e-5).all()


@pytest.mark.parametrize("parts", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_class_without_points(kind, parts):
    """Its latents are zeros, which the decoder knows again, also after they were rounded to 4 bits."""
    model, (surface, queries) = network(kind, parts), heart(absent=[2])
    with torch.no_grad():
        outputs, latents = model(surface, queries), model.encode(surface)
        m, size = model.num_latents // 3, latents.shape[-1]
        assert latents.shape == (2, 3 * m, size) and (latents[:, m : 2 * m] == 0).all()
        step = latents.abs().max() / 7.5
        contexts = [model.process_latents(codes) for codes in (latents, ((latents / step + 0.5).floor() + 0.49) * step)]
        for context in contexts:
            assert context["present_BC"].tolist() == 2 * [[True, False, True]]
        sdf, logits, class_sdf = model.decode_fields(contexts[0], queries)
    torch.testing.assert_close(class_sdf, outputs["class_sdf_BQC"])
    assert (class_sdf[..., 1] == ABSENT_DISTANCE).all()
    assert torch.equal(sdf, class_sdf.amin(-1)) and torch.equal(logits.argmax(-1), class_sdf.argmin(-1))


def test_a_heart_without_points_of_known_classes_is_background():
    model, (surface, queries) = network(), heart()
    model.set_known_classes([False, True, False])
    with torch.no_grad():
        sdf, logits, class_sdf = model.decode_fields(model.process_latents(model.encode(surface)), queries)
    assert (class_sdf[..., [0, 2]] == ABSENT_DISTANCE).all() and (logits[..., [0, 2]] == UNKNOWN_LOGIT).all()
    torch.testing.assert_close(sdf, class_sdf[..., 1].clamp_max(ABSENT_DISTANCE))
    model.set_known_classes([False] * 3)
    with torch.no_grad():
        assert (model.decode(model.process_latents(model.encode(surface)), queries)[0] == ABSENT_DISTANCE).all()


@pytest.mark.parametrize("parts", NETWORKS)
def test_slopes_against_central_differences(parts):
    model, (surface, queries) = network(KINDS[0], parts, torch.float64), heart(absent=[3], dtype=torch.float64)
    with torch.no_grad():
        context, step, points = model.process_latents(model.encode(surface)), 1e-6, queries[:, :9]
        slopes, union = model.class_sdf_gradient(context, points), model.sdf_gradient(context, points)
        for axis in range(3):
            offset = step * torch.eye(3, dtype=torch.float64)[axis]
            above, below = (model.decode_fields(context, points + sign * offset) for sign in (1, -1))
            for found, pair in (
                (slopes[..., :2, axis], (above[2], below[2])),
                (union[..., axis], (above[0], below[0])),
            ):
                numeric = (pair[0] - pair[1]) / (2 * step)
                torch.testing.assert_close(
                    found, numeric[..., :2] if found.ndim == 3 else numeric, rtol=1e-5, atol=1e-6
                )


def test_the_points_of_a_class_are_spread_over_its_share():
    model = network()
    labels = torch.tensor([0] * 7 + [2] * 2).expand(2, -1)
    labels = torch.stack([labels[0], labels[1].flip(0)])
    surface = torch.cat([torch.rand(2, 9, 3), torch.nn.functional.one_hot(labels, 3).float()], -1)
    found, present = model.split_surface(surface)
    assert found.shape == (6, 3, 6) and present.tolist() == 2 * [[True, False, True]]
    for b, own in ((0, [0, 1, 2, 3, 4, 5, 6]), (1, [2, 3, 4, 5, 6, 7, 8])):
        assert torch.equal(found[3 * b], surface[b, [own[0], own[2], own[4]]])
        assert (found[3 * b + 1, :, :3] == 0).all() and (found[3 * b + 1, :, 4] == 1).all()
        two = [i for i in range(9) if labels[b, i] == 2]
        assert torch.equal(found[3 * b + 2], surface[b, [two[0], two[0], two[1]]])


@pytest.mark.parametrize("parts", NETWORKS)
def test_under_bf16_what_comes_out_is_float32_and_near(parts):
    model, (surface, queries) = network(parts=parts), heart(absent=[1])
    with torch.no_grad():
        exact = model(surface, queries, queries[:, :4])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(surface, queries, queries[:, :4])
    for name, value in outputs.items():
        assert value.dtype == exact[name].dtype
    assert (outputs["class_sdf_BQC"] - exact["class_sdf_BQC"]).abs().max() < 0.05


def test_another_number_of_latents():
    model, (surface, queries) = network(), heart()
    model.use_latents(31)
    assert model.encode(surface).shape[1] == 30 and model.latent_words() == (
        "10 latents for each of 3 classes, 30 of 31 in all"
    )
    assert model.encode(surface, 7).shape[1] == 6
    assert model.decode(model.process_latents(model.encode(surface, 7)), queries)[0].shape == queries.shape[:2]
    with pytest.raises(InputError, match="--num_latents: expected at least a latent for each of 3 classes, found 2"):
        model.use_latents(2)
    with pytest.raises(InputError, match="their number is fixed"):
        network(KINDS[2]).use_latents(30)


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("point_vec2x4_dim32_depth2_nb", {}, "--model: expected at least a latent for each of 3 classes, found 2"),
        ("point_vec6x4_dim32_depth1_nb", {}, "--network parts needs two layers"),
        ("point_vec6x4_dim32_depth2_nb", dict(fps_class_gap=2.0), "--fps_class_gap: it has no meaning"),
        ("point_vec6x4_dim32_depth2_nb", dict(class_outputs="both"), "--class_outputs: it has no meaning"),
    ],
)
def test_refused(name, options, words):
    with pytest.raises(InputError, match=words):
        build_model(name, 3, network="parts", **options)


@pytest.mark.parametrize("parts", NETWORKS)
@pytest.mark.parametrize("recompute", [False, True])
def test_every_weight_has_a_gradient(parts, recompute):
    """Also without an absent class, and without slopes: DDP waits for the gradient of every weight."""
    surface, queries = heart()
    model = network(parts=parts).train()
    model.checkpoint_activations(recompute)
    model(surface, queries)["class_sdf_BQC"].sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
