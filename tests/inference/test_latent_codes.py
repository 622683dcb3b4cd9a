"""Latents in few bits: the bounds of what is lost, the file's form, and that figures are those of the file."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.formula_hearts import MODEL_FROM_CHECKPOINT, NAMES, OBLIQUE, make_case, run, write_checkpoint

from vecset.common.errors import InputError
from vecset.data.case_file import read_case
from vecset.inference.latent_codes import BITS, PackedLatents, column_bits, pack_latents, require_whole
from vecset.inference.latents import PACKED, read_latents, read_stored, write_latents
from vecset.inference.model import load_model
from vecset.weights import checkpoint as checkpoint_file


def some_latents(count=40, numbers=19, seed=0):
    return np.random.default_rng(seed).normal(3, 2, (count, numbers)).astype(np.float32)


def by_hand(latents_ML, bits_L):
    """(text of zeros and ones per latent, numbers read back), one number after the other in Python's own numbers."""
    texts, back = [""] * len(latents_ML), np.empty(latents_ML.shape)
    for j, bits in enumerate(int(b) for b in bits_L):
        column = [float(x) for x in latents_ML[:, j]]
        step, least = float(np.float32((max(column) - min(column)) / (2**bits - 1))), min(column)
        if step and 0.0 in column:
            least = float(np.float32(step * round(least / step)))
        for m, x in enumerate(column):
            code = max(0, min(round((x - least) / step), 2**bits - 1)) if step else 0
            texts[m] += format(code, f"0{bits}b")
            back[m, j] = least + step * code
    return texts, back


@pytest.mark.parametrize("bits, places", [(8, False), (8, True), (16, False), (16, True)])
@pytest.mark.parametrize("numbers", [3, 7, 19, 35])
def test_codes_are_those_by_hand_and_no_number_moves_by_more_than_half_a_step(bits, places, numbers):
    latents_ML = some_latents(numbers=numbers)
    latents_ML[:, 1] = -0.7  # a column of one value
    latents_ML[:3, 2] = 0
    packed = pack_latents(latents_ML, bits, places)
    require_whole(packed)
    bits_L = column_bits(len(latents_ML), numbers, bits, places)
    texts, back = by_hand(latents_ML, bits_L)
    rows = ["".join(format(byte, "08b") for byte in row) for row in packed.codes_MR]
    assert [row[: len(text)] for row, text in zip(rows, texts)] == texts
    assert {row[len(text) :].strip("0") for row, text in zip(rows, texts)} == {""}
    np.testing.assert_allclose(packed.latents_ML, back.astype(np.float32), rtol=0, atol=1e-6 * np.abs(back).max())
    span_L = np.ptp(latents_ML, 0)
    assert (np.abs(packed.latents_ML - latents_ML) <= 0.5 * span_L / (2.0**bits_L - 1) + 3e-7 * (3 + span_L)).all()
    assert (packed.latents_ML[:, 1] == np.float32(-0.7)).all()


def test_bits_are_dealt_out_to_places_first_and_keep_the_average():
    assert column_bits(512, 19, 8, True).tolist() == [7] * 12 + [6] * 4 + [12] * 3
    assert column_bits(512, 16, 8, False).tolist() == [8] * 8 + [7] * 8
    assert column_bits(512, 19, 16, True).tolist() == [16] * 8 + [15] * 8 + [16] * 3
    for bits in (8, 16):
        for count, numbers in ((64, 19), (200, 11), (512, 19), (512, 35), (1024, 35), (1024, 16), (256, 515)):
            for places in (False, True):
                packed = pack_latents(some_latents(count, numbers), bits, places)
                assert 0.8 * bits < packed.bits_per_number <= bits, "with the columns' least values and steps"
                assert packed.columns_3L[0].min() >= 4
                assert not places or set(packed.columns_3L[0, -3:]) == {max(12, bits)}
    assert column_bits(1, 5, 8, True).tolist() == [4, 4, 12, 12, 12], "never fewer than 4"


@pytest.mark.parametrize(
    "latents_ML",
    [
        [[1.5, -2.25, 0.0]],  # one latent
        [[3e38, -3e38, 1e-45], [-3e38, 3e38, -1e-45]],  # float32 from end to end, and its least number
        [[0.1, 7.0, -5.0], [0.1, 7.0, -5.0]],
    ],
)
def test_extremes(latents_ML):
    latents_ML = np.array(latents_ML, np.float32)
    for bits in (8, 16):
        back = pack_latents(latents_ML, bits).latents_ML
        assert back.dtype == np.float32 and np.isfinite(back).all()
        np.testing.assert_allclose(back, latents_ML, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("bits", [8, 16])
def test_zero_stays_zero(bits):
    """--network per_class and parts tell a class without points by its latents, which are zeros."""
    latents_ML = some_latents() - 3
    latents_ML[10:14] = 0
    back = pack_latents(latents_ML, bits, True).latents_ML
    assert (back[10:14] == 0).all() and (back[:10].any(1)).all()
    latents_ML[:, 0] = np.abs(latents_ML[:, 0])  # zero is the least
    assert (pack_latents(latents_ML, bits, True).latents_ML[10:14] == 0).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(wrong):
    latents_ML = some_latents()
    latents_ML[3, 4] = wrong
    with pytest.raises(InputError, match="not all finite"):
        pack_latents(latents_ML, 8)


def test_the_file_holds_what_was_packed_and_earlier_files_load(tmp_path):
    case, latents_ML = read_case(make_case(tmp_path / "case.npz")), some_latents(300)
    told = (case, "h", NAMES, "ab" * 32)
    packed = pack_latents(latents_ML, 8, True)
    write_latents(tmp_path / "8.npz", packed, *told)
    back, again, read = read_stored(tmp_path / "8.npz")
    np.testing.assert_array_equal(back, packed.latents_ML)
    assert np.array_equal(again.codes_MR, packed.codes_MR) and read.meta["case_id"] == "h"
    write_latents(tmp_path / "32.npz", latents_ML, *told)
    size = {bits: (tmp_path / f"{bits}.npz").stat().st_size for bits in (8, 32)}
    assert packed.bits_per_number <= 8 and size[8] < latents_ML.size + 3000 < size[32]
    with np.load(tmp_path / "32.npz") as archive:
        members = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "earlier.npz", **members)  # not compressed, as earlier versions wrote it
    for name in ("32.npz", "earlier.npz"):
        back, nothing, _ = read_stored(tmp_path / name)
        assert (
            nothing is None
            and np.array_equal(back, latents_ML)
            and np.array_equal(read_latents(tmp_path / name)[0], latents_ML)
        )


def test_rows_that_are_no_latents_stay_as_they_are(tmp_path):
    """Numbers of another kind would spoil the steps of the others, and lose what 8 bits leave of them."""
    case, latents_ML = read_case(make_case(tmp_path / "case.npz")), some_latents(300)
    rest_SL = 1000 + np.random.default_rng(1).normal(size=(2, latents_ML.shape[1])).astype(np.float32)
    packed = pack_latents(np.concatenate([latents_ML, rest_SL]), 8, True, rest=2)
    alone = pack_latents(latents_ML, 8, True)
    assert np.array_equal(packed.latents_ML, np.concatenate([alone.latents_ML, rest_SL]))
    write_latents(tmp_path / "a.npz", packed, case, "h", NAMES, "ab" * 32)
    back, again, _ = read_stored(tmp_path / "a.npz")
    assert np.array_equal(back, packed.latents_ML) and np.array_equal(again.rest_SL, rest_SL)
    assert alone.bits_per_number < packed.bits_per_number < alone.bits_per_number + 0.2
    with np.load(tmp_path / "a.npz") as archive:
        members = {name: archive[name] for name in archive.files}
    for wrong in (rest_SL[:, :-1], rest_SL.astype(np.float64), rest_SL.ravel()):
        np.savez(tmp_path / "b.npz", **members | {"latent_rest": wrong})
        with pytest.raises(InputError, match="not a file of latents"):
            read_latents(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "name, change",
    [
        ("latent_codes", lambda a: a[:, :-1]),
        ("latent_codes", lambda a: a[:0]),
        ("latent_codes", lambda a: a.astype(np.int64)),
        ("latent_codes", lambda a: a.ravel()),
        ("latent_codes", lambda a: np.array("text")),
        ("latent_columns", lambda a: a[:2]),
        ("latent_columns", lambda a: a[:, :-1]),
        ("latent_columns", lambda a: a[:, :0]),
        ("latent_columns", lambda a: a * np.float32(np.nan)),
        ("latent_columns", lambda a: -a),
        ("latent_columns", lambda a: a + np.float32([[0.5], [0], [0]])),
        ("latent_columns", lambda a: a * np.float32([[1000], [1], [1]])),
        ("latent_columns", lambda a: a.astype(np.float64)),
        ("latent_columns", None),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, name, change):
    case = read_case(make_case(tmp_path / "case.npz"))
    path = tmp_path / "latents.npz"
    write_latents(path, pack_latents(some_latents(), 8, True), case, "h", NAMES, "ab" * 32)
    with np.load(path) as archive:
        members = {name: archive[name] for name in archive.files}
    array = members.pop(name)
    if change:
        members[name] = change(array)
    np.savez(path, **members)
    with pytest.raises(InputError, match="not a file of latents") as caught:
        read_latents(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS)
def test_figures_and_label_map_are_those_of_the_file(workdir, capsys, bits):
    make_case(workdir / "data" / "a.npz", **OBLIQUE)
    assert run(workdir, "--no_meshes", "--latents", "--latent_bits", bits) == 0
    out = capsys.readouterr().out
    assert ("decoded from what these files hold" in out) == (bits < 32) and "latents: 3 numbers in" in out
    first, told = workdir / "out" / "a", json.loads((workdir / "out" / "a" / "result.json").read_text())
    path = first / "latents.npz"
    assert told["latents_file"]["bytes"] == path.stat().st_size and told["latents_file"]["latents"] == 1
    with np.load(path) as archive:
        assert set(PACKED) <= set(archive.files) if bits < 32 else "latents" in archive.files
    (workdir / "out").rename(workdir / "with")
    assert run(workdir, "--no_meshes") == 0
    maps = [nib.load(workdir / folder / "a" / "labels.nii.gz").dataobj for folder in ("out", "with")]
    np.testing.assert_array_equal(*maps, "the formula's one latent is exact in any number of bits")


@pytest.mark.slow
def test_the_bits_are_part_of_what_a_heart_is_made_from(workdir, capsys):
    make_case(workdir / "data" / "a.npz")
    for words, done in (
        (("--latent_bits", 32), False),
        ((), False),
        (("--latent_bits", 8), True),
        (("--latent_bits", 16), False),
    ):
        assert run(workdir, "--no_meshes", "--latents", *words) == 0
        assert ("were done before" in capsys.readouterr().out) == done


def test_bits_without_saving_are_refused(workdir, capsys):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--latent_bits", 8) == 2
    assert "--latent_bits: it says how --latents without a file saves" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_name, options, numbers",
    [
        ("learnable_vec6x5_dim32_depth1_nb", {}, 5),
        ("learnable_vec6_dim32_depth1", {"anchors": True}, 32),  # no bottleneck; places are the network's own
        ("point_vec6_dim32_depth1", {}, 32),
        ("point_vec6x5_dim32_depth1_kl", {"anchors": True, "rotary": True}, 8),
    ],
)
def test_every_kind_of_network_decodes_what_the_file_holds(tmp_path, monkeypatch, model_name, options, numbers):
    """The output layer starts at zero, so it is drawn here; label maps of two runs are compared, byte by byte."""

    def restless(*words):
        network = MODEL_FROM_CHECKPOINT(*words)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            network.to_outputs[1].weight.copy_(torch.randn(network.to_outputs[1].weight.shape, generator=generator))
        return network

    monkeypatch.setattr(checkpoint_file, "model_from_checkpoint", restless)
    write_checkpoint(tmp_path / "checkpoint.pth", model_name=model_name, **options)
    (tmp_path / "data").mkdir()
    make_case(tmp_path / "data" / "a.npz")
    assert run(tmp_path, "--no_meshes", "--latents") == 0
    path = tmp_path / "out" / "a" / "latents.npz"
    stored, packed, _ = read_stored(path)
    assert stored.shape == (6, numbers)
    model = load_model(tmp_path / "checkpoint.pth", device="cpu")
    places = model.latents_have_places
    assert places == (numbers == 8) and np.array_equal(packed.columns_3L[0], column_bits(6, numbers, 8, places))
    exact = model.encode(model.read(tmp_path / "data" / "a.npz"))[0].numpy()
    half_a_step = 0.5 * packed.columns_3L[2] + 1e-6
    assert (np.abs(stored - exact) <= half_a_step).all() and not np.array_equal(stored, exact)
    labels = (tmp_path / "out" / "a" / "labels.nii.gz").read_bytes()
    (tmp_path / "out").rename(tmp_path / "first")
    from vecset.commands.reconstruct import main

    words = ["--checkpoint", tmp_path / "checkpoint.pth", "--output_dir", tmp_path / "out", "--device", "cpu"]
    words += ["--no_meshes", "--latents", tmp_path / "first" / "a" / "latents.npz"]
    assert main([str(word) for word in words]) == 0
    assert (tmp_path / "out" / "a" / "labels.nii.gz").read_bytes() == labels


def test_bits_on_the_command_line_are_those_of_the_module():
    from vecset.inference.arguments import LATENT_BITS

    assert LATENT_BITS == BITS and isinstance(pack_latents(some_latents(), LATENT_BITS[0]), PackedLatents)
