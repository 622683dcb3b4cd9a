"""Files that are not what their name says, whose compressed data are damaged, or whose header describes more than can
be: one line each, that says what it is and what to do."""

import bz2
import gzip
import io
import os
import subprocess
import tarfile
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from vecset.common.errors import InputError
from vecset.imaging import file_content
from vecset.imaging.image_file import read_image
from vecset.imaging.label_map import read_label_map

AFFINE = np.diag([1.1, 1.2, 2.5, 1])


def labels():
    i, j, k = np.indices((22, 20, 18))
    return ((i - 9) ** 2 + (j - 11) ** 2 + 1.5 * (k - 8) ** 2 < 50).astype(np.uint8)


def nifti_bytes():
    return nib.Nifti1Image(labels(), AFFINE).to_bytes()


def itk_bytes(folder, suffix, compress=False):
    path = folder / f"made.{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(labels().T), str(path), compress)
    data = path.read_bytes()
    path.unlink()
    return data


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("h.nii", nifti_bytes())
    return buffer.getvalue()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("h.nii")
        info.size = len(nifti_bytes())
        archive.addfile(info, io.BytesIO(nifti_bytes()))
    return buffer.getvalue()


def analyze():
    return bytes(nifti_bytes()[:344]) + bytes(8)


def pair():
    data = bytearray(nifti_bytes())
    data[344:348] = b"ni1\0"
    return bytes(data)


NRRD = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n12345678"
FILES = {  # name: content, what the line says
    "plain.nii.gz": (nifti_bytes, r"not compressed, although its name says so; rename it to end in .nii"),
    "packed.nii": (lambda: gzip.compress(nifti_bytes()), "compressed with gzip.*; rename it to end in .nii.gz"),
    "twice.nii.gz": (lambda: gzip.compress(gzip.compress(nifti_bytes())), "gzip twice; unpack it once"),
    "thrice.nii": (lambda: gzip.compress(gzip.compress(nifti_bytes())), "gzip twice"),
    "pointer.nii.gz": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "annex.nii.gz": (lambda: b"/annex/objects/MD5E-s123--0.nii.gz\n", "git annex get"),
    "page.nii.gz": (lambda: b"\n <!DOCTYPE html><html>Log in</html>", r"web page \(HTML\).*; download .* logged in"),
    "page.nrrd": (lambda: b"<html><body>404</body></html>", "web page"),
    "denied.nii.gz": (lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
    "denied.mha": (lambda: b'{"message": "Not Found"}', "JSON"),
    "archive.nii.gz": (zipped, "zip archive.*; unpack it"),
    "archive.nrrd": (zipped, "zip archive"),
    "tar.nii.gz": (lambda: gzip.compress(tarred()), "tar archive, compressed with gzip.*; unpack it"),
    "dicom.nii.gz": (lambda: bytes(128) + b"DICM" + bytes(99), "DICOM.*dcm2niix"),
    "dicom.nii": (lambda: bytes(128) + b"DICM" + bytes(99), "DICOM"),
    "nrrd.nii.gz": (lambda: NRRD, "a NRRD image by its content.*; rename it to end in .nrrd"),
    "nrrd.mha": (lambda: NRRD, "a NRRD image by its content.*; rename it to end in .nrrd"),
    "nrrd_inside.nii.gz": (lambda: gzip.compress(NRRD), "a NRRD image, compressed with gzip; unpack it"),
    "nifti.nrrd": (nifti_bytes, "a NIfTI image by its content.*; rename it to end in .nii"),
    "nifti.mha": (lambda: gzip.compress(nifti_bytes()), r"a NIfTI image .*; rename it to end in .nii.gz"),
    "meta.nii": (lambda: b"ObjectType = Image\nNDims = 3\n", "a MetaImage image by its content"),
    "zeros.nii.gz": (lambda: bytes(5000), "zero bytes, as an interrupted copy"),
    "empty.nii.gz": (lambda: b"", "the file is empty"),
    "empty.mha": (lambda: b"", "the file is empty"),
    "analyze.nii": (analyze, "Analyze 7.5"),
    "pair.nii": (pair, "voxels of this NIfTI image are in another file"),
    "hdf.nii.gz": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(500), "HDF5"),
    "bzip.nii.gz": (lambda: bz2.compress(nifti_bytes()), "bzip2; unpack|bzip2.*bunzip2"),
    "xz.nii.gz": (lambda: b"\xfd7zXZ\0" + bytes(50), "unxz"),
    "zstd.nii.gz": (lambda: b"\x28\xb5\x2f\xfd" + bytes(50), "unzstd"),
    "picture.nii": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
    "array.nii.gz": (lambda: b"\x93NUMPY" + bytes(50), "NumPy"),
    "text.nii": (lambda: b"hello " * 100, "broken or truncated NIfTI"),
    "text.nii.gz": (lambda: b"hello " * 100, "broken or truncated NIfTI"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_is_and_what_to_do(tmp_path, name, capfd):
    make, words = FILES[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(InputError, match=words) as error:
        read_image(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{path}: ")
    assert capfd.readouterr() == ("", "")


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (tmp_path / "annex.nii.gz").symlink_to("../.git/annex/objects/a/b/MD5E-s9--0.nii.gz")
    (tmp_path / "circle.nii.gz").symlink_to(tmp_path / "circle.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii.gz")  # opening it would wait for ever
    for name, words in {
        "folder": "this is a directory",
        "gone": "a link to .*nowhere.nii.gz, which does not exist",
        "annex": "git annex get",
        "circle": "symbolic link",
        "pipe": "a pipe or a device",
        "none": "no such file",
    }.items():
        with pytest.raises(InputError, match=words):
            read_image(tmp_path / f"{name}.nii.gz")


def nrrd_with(encoding, packed, size="22 20 18", more=""):
    head = f"NRRD0005\ntype: uint8\ndimension: 3\nsizes: {size}\nencoding: {encoding}\n{more}\n"
    return head.encode() + packed


RAW = labels().tobytes(order="F")
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n"
    "CompressedDataSize = {}\nElementSpacing = 1 1 1\nDimSize = 22 20 18\n"
    "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
)


def meta_with(packed):
    return META.format(len(packed)).encode() + packed


def changed(data, where):
    """`data` with one bit changed at `where`, a place from its start or from its end."""
    data = bytearray(data)
    data[where] ^= 1
    return bytes(data)


PACKED = {  # name: sound content
    "h.nii.gz": lambda: gzip.compress(nifti_bytes(), 0, mtime=0),
    "gzip.nrrd": lambda: nrrd_with("gzip", gzip.compress(RAW, 0, mtime=0)),
    "zlib.mha": lambda: meta_with(zlib.compress(RAW, 0)),
}


@pytest.mark.parametrize("name", PACKED)
def test_data_whose_checksum_is_wrong(tmp_path, name):
    path, whole = tmp_path / name, PACKED[name]()
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_label_map(path, 2).labels, labels())
    for where in (-400, -2000, -6):  # voxels, and the checksum or length itself
        path.write_bytes(changed(whole, where))
        with pytest.raises(InputError, match="broken or truncated") as error:
            read_label_map(path, 2)
        assert str(path) in str(error.value)
    for cut in (1, 4, 9, 100):
        path.write_bytes(whole[:-cut])
        with pytest.raises(InputError, match="broken or truncated"):
            read_label_map(path, 2)


def test_several_members_are_one_stream(tmp_path):
    data = nifti_bytes()
    parts = [gzip.compress(data[a : a + 1500], mtime=0) for a in range(0, len(data), 1500)]
    (tmp_path / "h.nii.gz").write_bytes(b"".join(parts))
    np.testing.assert_array_equal(read_label_map(tmp_path / "h.nii.gz", 2).labels, labels())
    (tmp_path / "padded.nii.gz").write_bytes(b"".join(parts) + bytes(512))  # as tapes and some disks leave it
    np.testing.assert_array_equal(read_label_map(tmp_path / "padded.nii.gz", 2).labels, labels())
    (tmp_path / "cut.nii.gz").write_bytes(b"".join(parts[:-1]))
    with pytest.raises(InputError, match="broken or truncated"):
        read_label_map(tmp_path / "cut.nii.gz", 2)


@pytest.mark.parametrize("name", ["h.nii.gz", "h.nii", "gzip.nrrd", "raw.nrrd", "zlib.mha"])
def test_bytes_after_the_data(tmp_path, name):
    sound = {
        **{n: make() for n, make in PACKED.items()},
        "h.nii": nifti_bytes(),
        "raw.nrrd": nrrd_with("raw", RAW),
    }[name]
    path = tmp_path / name
    path.write_bytes(sound + b"garbage behind it")
    with pytest.raises(InputError, match="broken or truncated"):
        read_label_map(path, 2)
    path.write_bytes(sound + bytes(100))
    np.testing.assert_array_equal(read_label_map(path, 2).labels, labels())


def test_gzip_as_the_programs_make_it(tmp_path):
    """gzip, and pigz-like streams with a name in the header."""
    (tmp_path / "h.nii").write_bytes(nifti_bytes())
    subprocess.run(["gzip", "-k", str(tmp_path / "h.nii")], check=True)
    np.testing.assert_array_equal(read_label_map(tmp_path / "h.nii.gz", 2).labels, labels())


def huge_nifti(shape, kind=nib.Nifti1Image):
    image = kind(np.zeros((2, 2, 2), np.int16), np.eye(4))
    image.header["dim"][1:4] = shape
    image.header["vox_offset"] = image.header.single_vox_offset
    return bytes(image.header.binaryblock) + bytes(4) + bytes(1000)


HUGE = {
    "h.nii": lambda: huge_nifti((32000,) * 3),
    "h.nii.gz": lambda: gzip.compress(huge_nifti((32000,) * 3)),
    "two.nii.gz": lambda: gzip.compress(huge_nifti((40000, 40000, 40000), nib.Nifti2Image)),
    "raw.nrrd": lambda: nrrd_with("raw", RAW, "40000 40000 40000"),
    "gzip.nrrd": lambda: nrrd_with("gzip", gzip.compress(RAW), "40000 40000 40000"),
    "ascii.nrrd": lambda: nrrd_with("ascii", b"1 2 3", "40000 40000 40000"),
    "raw.mha": lambda: meta_with(zlib.compress(RAW)).replace(b"= 22 20 18", b"= 40000 40000 40000"),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_header_that_describes_too_much(tmp_path, name):
    (tmp_path / name).write_bytes(HUGE[name]())
    with pytest.raises(InputError, match=r"describes (32000 x 32000|40000 x 40000) x .*(64|65.5|128) TB"):
        read_label_map(tmp_path / name, 2)


@pytest.mark.parametrize("name", ["h.nii.gz", "gzip.nrrd", "zlib.mha"])
def test_an_image_that_is_too_large_for_the_memory(tmp_path, name, monkeypatch):
    """Voxels without content compress to next to nothing, so that the file's size says nothing."""
    (tmp_path / name).write_bytes(PACKED[name]())
    monkeypatch.setattr(file_content, "available_bytes", lambda: 20_000)
    with pytest.raises(
        InputError, match=r"22 x 20 x 18 voxels of uint8 \(7.92 kB\).*39.6 kB of memory, 20 kB are free"
    ):
        read_label_map(tmp_path / name, 2)


def test_numbers_of_a_meta_image_header(tmp_path):
    """MetaIO takes what is no number for 0, and ends the process at a NDims that it has no room for."""
    whole = meta_with(zlib.compress(RAW))
    for old, new in (
        (b"NDims = 3", b"NDims = 99999"),
        (b"NDims = 3", b"NDims = -1"),
        (b"NDims = 3", b"NDims = 2"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 x 1"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 0 1"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 nan 1"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1"),
        (b"DimSize = 22 20 18", b"DimSize = 22 20 -18"),
        (b"NDims = 3", b"NDims = 3\nDimSize = 18 20 22"),
    ):
        (tmp_path / "h.mha").write_bytes(whole.replace(old, new))
        with pytest.raises(InputError, match="broken or truncated MetaImage"):
            read_label_map(tmp_path / "h.mha", 2)


def test_a_nrrd_with_bzip2_is_told(tmp_path):
    (tmp_path / "h.nrrd").write_bytes(nrrd_with("bzip2", bz2.compress(RAW)))
    with pytest.raises(InputError, match="bzip2, which ITK does not read; save it with gzip"):
        read_label_map(tmp_path / "h.nrrd", 2)


def test_voxels_that_begin_inside_the_header(tmp_path):
    data = bytearray(nifti_bytes())
    data[108:112] = np.float32(0).tobytes()
    (tmp_path / "h.nii").write_bytes(data)
    with pytest.raises(InputError, match="voxels begin at byte 0"):
        read_label_map(tmp_path / "h.nii", 2)
