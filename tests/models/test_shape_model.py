"""The linear shape model: distances against an obvious reference, fits of known shapes, what the encoder is shown."""

import numpy as np
import pytest
import torch
from helpers.ball_shapes import CENTRES, RADII, STEP, ball_arrays, ball_model, ball_points, radii
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vecset.common.errors import InputError
from vecset.common.structure_state import State
from vecset.data.shape_model_file import read_shape_model, sizes_of, write_shape_model
from vecset.models.autoencoder import build_model
from vecset.models.embedding import surface_features
from vecset.models.shape_model import LONGEST_MOVE, UNUSED_AT, num_proposals, with_proposals

NAMES = ["A", "B", "C", "D"]
MODEL = "point_vec12x4_dim64_depth1_nb"


def seen(weights, classes, turn_deg=(0, 0, 0), scale=1.0, shift=(0, 0, 0), count=150, seed=0):
    """Points (1, N, 3) and classes (1, N) on balls of the model, in another frame: x = scale turn (model - shift)."""
    points = ball_points(weights, count, seed)[classes]
    turn = Rotation.from_euler("xyz", turn_deg, degrees=True)
    moved = scale * turn.apply((points - np.array(shift)).reshape(-1, 3))
    return torch.tensor(moved[None], dtype=torch.float32), torch.tensor(np.repeat(classes, count)[None])


def test_distances_slopes_and_modes_are_those_of_interpolated_grids():
    model, rng = ball_model(), np.random.default_rng(3)
    weights = torch.tensor([[0.7, -1.2]])
    chosen = rng.integers(0, 4, 300)
    classes = torch.tensor(chosen[None])
    at = CENTRES[chosen] + rng.uniform(-0.9, 0.9, (300, 3))  # some beyond a structure's grid
    found = model.distances(torch.tensor(at[None], dtype=torch.float32), classes, weights)
    table, first = model.table_VK.double().numpy(), model.first_C.numpy()

    def reference(place, c):
        cells = model.cells_C3[c].numpy()
        index = (place - model.low_C3[c].double().numpy()) / STEP
        grids = table[first[c] : first[c] + cells.prod()].reshape(*cells, -1)
        return np.array(
            [ndimage.map_coordinates(grids[..., k], index[:, None], order=1, mode="nearest")[0] for k in range(3)]
        )

    for i, (place, c) in enumerate(zip(at, chosen)):
        mean, *modes = reference(place, c)
        assert found[0][0, i] == pytest.approx(mean + np.dot(modes, weights[0].numpy()), abs=1e-4)
        np.testing.assert_allclose(found[2][0, i], modes, atol=1e-5)
    inside = np.flatnonzero(np.abs(at - CENTRES[chosen]).max(1) < RADII[chosen] + 0.05)
    for i in inside:
        if np.abs(((at[i] - model.low_C3[chosen[i]].numpy()) / STEP) % 1 - 0.5).max() > 0.49:
            continue  # at a wall of a cell the slope jumps
        ends = [reference(at[i] + 1e-5 * sign * axis, chosen[i]) for axis in np.eye(3) for sign in (1, -1)]
        shape = [end[0] + np.dot(end[1:], weights[0].numpy()) for end in ends]
        slope = np.subtract(shape[::2], shape[1::2]) / 2e-5
        np.testing.assert_allclose(found[1][0, i], slope, atol=2e-3)


def test_a_known_pose_and_shape_are_found():
    weights, turn, scale, shift = [1.2, -0.8], (12, -15, 20), 1.6, (0.1, -0.05, 0.2)
    points, classes = seen(weights, [0, 1, 2, 3], turn, scale, shift)
    fit = ball_model().fit(points, classes)
    assert fit.scale_B[0] == pytest.approx(1 / scale, rel=0.02)
    back = Rotation.from_euler("xyz", turn, degrees=True).inv().as_matrix()
    np.testing.assert_allclose(fit.turn_B33[0], back, atol=0.02)
    np.testing.assert_allclose(fit.shift_B3[0], shift, atol=0.02)
    np.testing.assert_allclose(fit.weights_BK[0], weights, atol=0.25)
    np.testing.assert_allclose(fit.from_model(fit.to_model(points)), points, atol=1e-5)


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_what_is_hidden_follows_from_what_is_seen(hidden):
    """Its radius goes with those that are seen: nearer than the mean's, where the truth is far from the mean."""
    weights, shift = [1.5, 1.5], (0.05, 0.1, 0.0)
    given = [c for c in range(4) if c != hidden]
    points, classes = seen(weights, given, (5, 5, -8), 1.4, shift)
    model = ball_model()
    fit = model.fit(points, classes)
    places = model.propose(fit, torch.full((1, 100), hidden), torch.arange(100)[None])[0].double().numpy()
    turn = Rotation.from_euler("xyz", (5, 5, -8), degrees=True)
    away = np.linalg.norm(turn.inv().apply(places / 1.4) + shift - CENTRES[hidden], axis=1)
    truth = radii(weights)[hidden]
    assert np.abs(away - truth).mean() < 0.5 * abs(RADII[hidden] - truth) + 0.015


def test_several_hearts_at_once_are_as_one_by_one_and_what_decides_nothing_is_held():
    parts = [seen([1, 0], [0, 1, 2], seed=1), seen([0, -1], [1, 2, 3], (10, 0, 0), 1.2, seed=2), seen([0, 0], [2] * 3)]
    model = ball_model()
    together = model.fit(torch.cat([p for p, _ in parts]), torch.cat([c for _, c in parts]))
    for i, (points, classes) in enumerate(parts):
        alone = model.fit(points, classes)
        for one, all_ in zip(alone, together):
            np.testing.assert_allclose(one[0], all_[i], atol=1e-4)
    assert together.turn_B33[2].trace() > 2.9, "the turn of one ball follows from nothing"
    nothing = ball_model(unknown=(2,)).fit(*parts[2])
    assert all(torch.isfinite(part).all() for part in nothing) and not nothing.weights_BK.any()


def test_where_no_finite_fit_is_found_the_start_stays(monkeypatch):
    model, (points, classes) = ball_model(), seen([0.5, 0], [0, 1, 2])
    two = torch.cat([points, points]), torch.cat([classes, classes])
    fine, solve = model.fit(*two), torch.linalg.solve_ex

    def spoiled(*arguments):
        found, info = solve(*arguments)
        found[1] = torch.nan  # of the second heart alone
        return found, info

    monkeypatch.setattr(torch.linalg, "solve_ex", spoiled)
    found = model.fit(*two)
    assert torch.equal(found.turn_B33[1], torch.eye(3)) and not found.weights_BK[1].any()
    assert all(torch.isfinite(part).all() for part in found)
    np.testing.assert_allclose(found.weights_BK[0], fine.weights_BK[0], atol=1e-5)


def test_proposals_are_of_what_is_unknown_or_cut_in_equal_numbers():
    points, classes = seen([0.5, 0.5], [0, 1, 3], count=40)
    features = surface_features(points, classes + 1, 4).expand(3, -1, -1)
    states = torch.full((3, 4), int(State.GIVEN))
    states[0, 2], states[1, 1], states[1, 2], states[2, 2] = State.UNKNOWN, State.CUT, State.UNKNOWN, State.ABSENT
    found = with_proposals(ball_model(), features, states)
    count = num_proposals(120)
    assert torch.equal(found.surface_BNF[:, :120], features) and found.surface_BNF.shape == (3, 120 + count, 7)
    added = found.surface_BNF[:, 120:, 3:].argmax(-1)
    assert (added[0] == 2).all() and torch.bincount(added[1]).tolist() == [0, count // 2, count // 2]
    assert found.proposed_BN1[:2, 120:].all() and not found.proposed_BN1[:, :120].any()
    assert not found.proposed_BN1[2].any() and (found.places_BN3[2, 120:] == UNUSED_AT).all()
    assert torch.equal(found.places_BN3[:2, 120:], found.surface_BNF[:2, 120:, :3])
    unknown = with_proposals(ball_model(unknown=(2,)), features[:1], states[:1])
    assert not unknown.proposed_BN1.any(), "nothing can be proposed of a structure that no training heart has"


def test_a_template_point_moves_by_no_more_than_it_may():
    model = ball_model()
    fit = model.fit(*seen([0, 0], [0, 1, 2, 3]))._replace(weights_BK=torch.tensor([[8.0, 8.0]]))
    rows = torch.arange(50)[None]
    places = fit.to_model(model.propose(fit, torch.full((1, 50), 2), rows))
    away = (places - model.template_CT3[2, rows].float()).norm(dim=-1)
    assert away.max() <= LONGEST_MOVE + 1e-4 and away.mean() > 0.9 * LONGEST_MOVE


def network(**options):
    torch.manual_seed(0)
    plain = {"anchors": True, "rotary": True, "fps_class_gap": 2.0, "states": True}
    model = build_model(MODEL, 4, **plain, **{"shape_model": sizes_of(ball_arrays()), **options}).eval()
    if model.shape_model is not None:
        model.shape_model.load(ball_arrays())
    return model


def test_a_whole_heart_is_encoded_as_if_there_were_no_shape_model():
    points, classes = seen([0.3, 0.1], [0, 1, 2, 3], count=40)
    features, given = surface_features(points, classes + 1, 4), torch.zeros(1, 4, dtype=torch.long)
    model = network()
    latents = model.encode(features, states_BC=given)
    plain = network(shape_model=None)
    plain.load_state_dict(model.state_dict(), strict=False)
    for count in range(20, 41):  # whichever point the choice of latents starts with
        some = features[:, : 4 * count]
        with_model, without = (m.encode(some, states_BC=given) for m in (model, plain))
        torch.testing.assert_close(with_model, without, rtol=0, atol=2e-5)
    with torch.no_grad():
        model.proposal_embed.fill_(3.0)
        model.shape_model.table_VK.mul_(2)
    assert torch.equal(model.encode(features, states_BC=given), latents)


def test_latents_lie_on_proposals_and_follow_what_is_seen_alone():
    points, classes = seen([0.3, 0.1], [0, 1, 2], count=60)
    features, states = surface_features(points, classes + 1, 4), torch.tensor([[0, 0, 0, int(State.UNKNOWN)]])
    model = network()
    latents = model.encode(features, states_BC=states)
    away = (latents[0, :, -3:] - torch.tensor(CENTRES[3], dtype=torch.float32)).norm(dim=-1)
    assert (away < RADII[3] + 0.1).any()
    with torch.no_grad():
        model.proposal_embed.fill_(1.0)
    assert not torch.equal(model.encode(features, states_BC=states), latents)
    in_16_bit = torch.autocast("cpu", dtype=torch.bfloat16)
    with in_16_bit:
        assert torch.isfinite(model.encode(features, states_BC=states)).all()


@pytest.mark.parametrize("left_out", ["states", "anchors"])
def test_a_network_needs_states_and_places(left_out):
    options = {"states": True, "anchors": True, "shape_model": sizes_of(ball_arrays())}
    options[left_out] = False
    with pytest.raises(InputError, match="--shape_model: it needs --observe, --anchors"):
        build_model(MODEL, 4, **options)


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "shapes.npz"
    write_shape_model(path, ball_arrays(), NAMES, {"cases": ["a"]})
    arrays, names, record = read_shape_model(path)
    assert names == NAMES and record == {"cases": ["a"]}
    for name, value in ball_arrays().items():
        assert np.array_equal(arrays[name], value)


def broken(change):
    arrays = ball_arrays()
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.update(table_VK=a["table_VK"][1:]), "not as many rows"),
        (lambda a: a.update(first_C=a["first_C"] + 1), "not as many rows"),
        (lambda a: a.update(cells_C3=a["cells_C3"][:, :2]), "sizes"),
        (lambda a: a["table_VK"].__setitem__((5, 0), np.nan), "not finite"),
        (lambda a: a.update(template_CT3=a["template_CT3"][:3]), "template"),
        (lambda a: a.update(step=np.float32(0)), "sizes"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    write_shape_model(tmp_path / "x.npz", broken(change), NAMES, {})
    with pytest.raises(InputError, match=message):
        read_shape_model(tmp_path / "x.npz")


def test_what_is_no_shape_model_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(InputError, match="no such file"):
        read_shape_model(path)
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match="not a shape model"):
        read_shape_model(path)
    write_shape_model(path, ball_arrays(), NAMES, {})
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:900] + bytes(400) + whole[1300:]):
        path.write_bytes(part)
        with pytest.raises(InputError, match="not a shape model, or damaged"):
            read_shape_model(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(InputError, match="not a shape model"):
        read_shape_model(path)
