"""Weights for some classes as those for these and more: the same field, whatever the order of the classes."""

import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases

from vecset.common.errors import EXIT_BAD_INPUT, run_command
from vecset.common.structure_state import State
from vecset.main_ae import main
from vecset.models.autoencoder import build_model
from vecset.models.embedding import surface_features
from vecset.weights.checkpoint import load_checkpoint
from vecset.weights.freezing import PARTS, part_of
from vecset.weights.more_classes import NEW_DISTANCE, NEW_LOGIT, of_classes, with_classes

OLD, NEW = ["LV", "RA", "RV"], ["SVC", "RV", "LV", "IVC", "RA"]
PLACE = [NEW.index(name) for name in OLD]
JOINT = {"name": "point_vec24x4_dim32_depth1_nb", "anchors": True}


def random_model(classes, seed, **options):
    """With no weight zero, as after training."""
    model, generator = build_model(**{**JOINT, **options}, num_classes=classes), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def field(model, classes, states=None, others=0):
    """(sdf, logits, class distances or None) of one heart, in which the structures are OLD's, but for `others` points
    of the rest."""
    generator = torch.Generator().manual_seed(5)
    points, queries = (torch.rand(1, n, 3, generator=generator) * 2 - 1 for n in (150, 60))
    labels = torch.arange(150) % 3 + 1
    if classes == len(NEW):
        labels = torch.tensor(PLACE)[labels - 1] + 1
    points = torch.cat([points, torch.rand(1, others, 3, generator=generator)], 1)
    labels = torch.cat([labels, torch.tensor([1, 4]).repeat(others // 2)])
    latents = model.encode(surface_features(points, labels[None], classes), states_BC=states)
    return model.decode_fields(model.process_latents(latents), queries)


@pytest.mark.parametrize("options", [{}, {"class_outputs": "both"}, {"class_outputs": "distances"}, {"states": True}])
@torch.no_grad()
def test_the_old_classes_have_the_same_field(options):
    small, large = random_model(3, 0, **options), random_model(5, 1, **options)
    large.load_state_dict(with_classes(small.state_dict(), OLD, NEW, large))
    states = [None, None]
    if "states" in options:
        states[0] = torch.tensor([[State.GIVEN, State.CUT, State.GIVEN]])
        states[1] = torch.full((1, 5), State.UNKNOWN)
        states[1][:, PLACE] = states[0]
    (sdf, logits, distances), found = field(small, 3, states[0]), field(large, 5, states[1])
    rest = [c for c in range(5) if c not in PLACE]
    torch.testing.assert_close(found[0], sdf, rtol=0, atol=1e-6)
    if options.get("class_outputs") == "distances":
        assert (found[2][..., rest] == NEW_DISTANCE).all()
    else:
        torch.testing.assert_close(found[1][..., PLACE], logits, rtol=0, atol=1e-6)
        assert (found[1][..., rest] == NEW_LOGIT).all()
    if distances is not None:
        torch.testing.assert_close(found[2][..., PLACE], distances, rtol=0, atol=1e-6)
    assert torch.equal(torch.tensor(PLACE)[logits.argmax(-1)], found[1].argmax(-1))  # so the label map is the same


@torch.no_grad()
def test_a_field_per_class_is_the_same_for_the_old_ones():
    options = {"network": "per_class", "name": "learnable_vec{}x4_dim32_depth1_nb"}
    small, large = (
        random_model(c, c, **{**options, "name": options["name"].format(4 * c)}, anchors=False) for c in (3, 5)
    )
    large.load_state_dict(with_classes(small.state_dict(), OLD, NEW, large))
    before, after = field(small, 3), field(large, 5, others=100)  # 50 points of each class in both
    torch.testing.assert_close(after[2][..., PLACE], before[2], rtol=0, atol=1e-6)


def test_what_belongs_to_a_class_is_found_by_changing_it():
    """A slow reference: the outputs of a class are those that change with its rows, and none else."""
    model = random_model(3, 0, class_outputs="both")
    with torch.no_grad():
        before = field(model, 3)
        for name in ("to_outputs.1.weight", "to_outputs.1.bias"):
            parameter = dict(model.named_parameters())[name]
            parameter.add_(0.3 * of_classes(model, name, [1]))
        after = field(model, 3)
    assert torch.equal(before[0], after[0])
    for one, other in zip(before[1:], after[1:]):
        assert torch.equal(one[..., [0, 2]], other[..., [0, 2]]) and not torch.equal(one[..., 1], other[..., 1])
    assert of_classes(model, "layers.0.0.fn.to_q.weight", [1]) is None


def test_every_parameter_is_of_a_part():
    shapes = {"cells": 8, "modes": 1, "template": 1}
    for options in (
        {"states": True, "answer_noise": 2, "shape_model": shapes, "decoder_layers": 1, "class_outputs": "both"},
        {"network": "parts", "name": "learnable_vec24x4_dim32_depth2_nb"},
    ):
        names = [name for name, _ in build_model(**{**JOINT, **options}, num_classes=3).named_parameters()]
        assert {part_of(name) for name in names} == set(PARTS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    for folder, names in (("old", OLD), ("new", NEW)):
        write_ball_cases(root / folder, train=2, val=1, num_classes=len(names), class_names=names)
    assert main(tiny_arguments(root / "old", root / "start", "--epochs", 2)) == 0
    return root


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_parts_keep_all_but_what_is_new(folders, tmp_path, optimizer, capsys):
    """Also with weight decay, and where the run is stopped and goes on without the first weights."""
    start = tmp_path / "start.pth"
    start.write_bytes((folders / "start" / "checkpoint-last.pth").read_bytes())
    words = ["--init_from", start, "--freeze", *PARTS, "--optimizer", optimizer, "--weight_decay", 0.3, "--lr", 0.01]
    words = tiny_arguments(folders / "new", tmp_path / "out", *words, "--epochs", 3)
    assert main([*words, "--max_steps", "1"]) == 0
    assert "its 3 classes are taken by name, new: SVC, IVC" in capsys.readouterr().out
    start.unlink()
    assert main(words) == 0
    old = load_checkpoint(folders / "start" / "checkpoint-last.pth")["model"]
    new = load_checkpoint(tmp_path / "out" / "checkpoint-last.pth")["model"]
    model = build_model(**load_checkpoint(tmp_path / "out" / "checkpoint-last.pth")["model_config"])
    kept = with_classes(old, OLD, NEW, model)
    changed = {name for name, value in new.items() if not torch.equal(value, kept[name])}
    assert changed == {"point_embed.mlp.weight", "to_outputs.1.weight", "to_outputs.1.bias"}
    for name in changed:
        mine = of_classes(model, name, [NEW.index("SVC"), NEW.index("IVC")])
        assert torch.equal(new[name][~mine], kept[name][~mine])
        assert np.mean((new[name] != kept[name])[mine].numpy()) > 0.5
    assert run_command(main, [*words, "--freeze", "encoder"]) == EXIT_BAD_INPUT
    assert "--freeze" in capsys.readouterr().err


def test_what_cannot_be_frozen_is_one_line(folders, tmp_path, capsys):
    start = ["--init_from", folders / "start" / "checkpoint-last.pth"]
    for data, more, said in (
        ("old", ["--freeze", "encoder"], "it keeps weights that a run starts from"),
        ("old", ["--freeze", *PARTS, *start], "nothing is left to train"),
    ):
        assert run_command(main, tiny_arguments(folders / data, tmp_path / "out", *more)) == EXIT_BAD_INPUT
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
