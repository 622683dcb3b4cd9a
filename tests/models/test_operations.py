"""The formula of a step's operations against PyTorch's own count, and the cards' peaks."""

import pytest
import torch
from helpers.operation_counter import OperationCounter

from vecset.models import attention
from vecset.models.autoencoder import EXTENSIONS, NETWORKS, build_model
from vecset.models.operations import KNOWN, PEAK_TFLOPS, card_peak, pass_operations

C = 5
PLACES = {"anchors": True, "rotary": True}
MODELS = [
    ("learnable_vec32x8_dim64_depth2_nb", {}),
    ("learnable_vec32x8_dim32_depth1_nb", PLACES),
    ("point_vec32_dim128_depth2", {"decoder_layers": 2}),
    ("point_vec32x8_dim128_depth2_kl", {"anchors": True, "fps_class_gap": 2.0, "fps_density": "2:3"}),
    ("point_vec32x16_dim192_depth3_nb", {**PLACES, "decoder_layers": 1, "network": "joint", "class_outputs": "both"}),
    ("point_vec32x8_dim64_depth1_nb", {"class_outputs": "distances", "states": True}),
    ("point_vec32x8_dim64_depth2_nb", {**PLACES, "states": True, "answer_noise": 6}),
    (
        "point_vec32x8_dim64_depth2_nb",
        {**PLACES, "states": True, "shape_model": {"cells": 24, "modes": 3, "template": 5}},
    ),
    (
        "point_vec32x8_dim64_depth2_nb",
        {
            **PLACES,
            "states": True,
            "answer_noise": 3,
            "shape_model": {"cells": 24, "modes": 3, "template": 5},
            "fit_at_queries": True,
        },
    ),
    *(("point_vec33x16_dim128_depth3_nb", {**PLACES, "network": name}) for name in NETWORKS if name != "joint"),
    *(("learnable_vec33x16_dim64_depth2_nb", {"network": name}) for name in NETWORKS if name != "joint"),
]


def counted(config, cases, surface, decoded, slope, num_latents):
    generator = torch.Generator().manual_seed(0)
    model = build_model(**config)
    torch.nn.init.normal_(model.to_outputs[1].weight, 0, 0.02, generator)
    points_BN3 = torch.randn(cases, surface, 3, generator=generator)
    labels_BN = torch.arange(surface).remainder(C).expand(cases, -1)
    surface_BNF = torch.cat([points_BN3, torch.nn.functional.one_hot(labels_BN, C).float()], -1)
    queries_BQ3, slope_BE3 = (torch.rand(cases, count, 3, generator=generator) - 0.5 for count in (decoded, slope))
    states_BC = torch.zeros(cases, C, dtype=torch.long) if config.get("states") else None
    answers_B2K = torch.zeros(cases, 2, config["answer_noise"]) if config.get("answer_noise") else None
    with OperationCounter() as counter:
        slope_BE3 = slope_BE3 if slope else None
        outputs = model(surface_BNF, queries_BQ3, slope_BE3, None, num_latents, states_BC, answers_B2K)
        outputs |= {f"other_{name}": value for name, value in outputs.pop("other", {}).items()}
        sum(value.square().sum() for value in outputs.values() if value.is_floating_point()).backward()
    return counter.total


@pytest.mark.parametrize("name, options", MODELS)
def test_every_network_has_the_operations_that_pytorch_counts(monkeypatch, name, options):
    monkeypatch.setattr(attention, "fused_attention", attention.plain_attention)
    config = {"name": name, "num_classes": C, **options}
    for shapes in ((1, 100, 120, 0, None), (2, 100, 120, 50, None), (3, 60, 30, 20, 20)):
        if name.startswith("learnable"):
            shapes = (*shapes[:-1], None)
        # exact today; a change of a thousandth would be seen in no log
        assert pass_operations(config, *shapes) == pytest.approx(counted(config, *shapes), rel=1e-3), shapes


def test_every_option_of_the_network_is_known_to_the_formula():
    config = {"name": "point_vec32x8_dim64_depth1_nb", "num_classes": C}
    assert set(EXTENSIONS) < KNOWN and pass_operations(config, 1, 100, 100) > 0
    assert {named for _, options in MODELS for named in options} == set(EXTENSIONS), "each is compared above"
    for new in ({"another": 1}, {"network": "another"}, {"class_outputs": "another"}):
        assert pass_operations({**config, **new}, 1, 100, 100) is None
    phase_1 = {"name": "learnable_vec1024x16_dim1024_depth24_nb", "num_classes": 10}
    assert pass_operations(phase_1, 1, 8192, 3072 + 8192) == pytest.approx(3.2e12, rel=0.03)


@pytest.mark.parametrize(
    "name, bf16, fp32",
    [
        ("NVIDIA H200", 989, 67),
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA A100-SXM4-40GB", 312, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 19.5),
        ("NVIDIA L4", 121, 30.3),
    ],
)
def test_peaks_of_cards_by_the_names_that_torch_gives(name, bf16, fp32):
    assert (card_peak(name, "bf16"), card_peak(name, "fp32")) == (bf16 * 1e12, fp32 * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA H200 MIG 1g.18gb",
        "AMD Instinct MI300X",
        "",
    ],
)
def test_a_card_that_is_not_known_has_no_peak(name):
    assert [card_peak(name, precision) for precision in ("bf16", "tf32", "fp32")] == [None] * 3


def test_peaks_fall_from_16_to_32_bit():
    assert all(bf16 > tf32 >= fp32 for bf16, tf32, fp32 in PEAK_TFLOPS.values())
