"""Whatever is wrong with one heart: it is named with its reason, the others are made, nothing half-written stays."""

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from helpers.formula_hearts import NAMES, make_case, metrics, run

from vecset import info
from vecset.common import memory
from vecset.common.errors import run_command
from vecset.inference import heart_result, reconstruction


def told(capsys):
    """The lines about failed hearts, each with its name and reason; the last line has all names."""
    err = capsys.readouterr().err
    assert "Traceback" not in err, err
    lines = [line.strip() for line in err.replace("\r", "\n").splitlines()]
    found = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    (last,) = [line for line in lines if "hearts failed (reasons above): " in line]
    assert last.split(": ")[1].split(", ") == [line.split(": ")[0] for line in found]
    return found


def made(workdir):
    """Names of the folders of hearts, each with a result."""
    folders = [p for p in (workdir / "out").iterdir() if p.is_dir()]
    assert all((p / "result.json").is_file() for p in folders) and not list((workdir / "out").rglob(".tmp*"))
    return sorted(p.name for p in folders)


def three(workdir):
    for name in "abc":
        make_case(workdir / "data" / f"{name}.npz")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("surface"), "KeyError: 'surface' (test_isolation.py:"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero (test_isolation.py:"),
        (
            MemoryError("Unable to allocate 64. TiB"),
            "not enough memory (Unable to allocate 64. TiB); give fewer",
        ),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "not enough memory (CUDA out of memory)"),
        (OSError(errno.ENOSPC, "No space left on device"), "b.npz: no space left"),
        (OSError(errno.EIO, "Input/output error", "x.npz"), "x.npz: Input/output error"),
        (RecursionError("too deep"), "RecursionError: too deep"),
    ],
)
def test_any_exception_of_one_heart(workdir, capsys, monkeypatch, error, words, stage="decode_heart"):
    three(workdir)
    working = getattr(heart_result, stage)

    def fails(*arguments, **options):
        named = str(arguments)
        if "b.npz" in named or "/out/b" in named or "case_id='b'" in named:
            raise error
        return working(*arguments, **options)

    monkeypatch.setattr(heart_result, stage, fails)
    assert run(workdir, "--no_meshes") == 1
    (line,) = told(capsys)
    assert line.startswith("b: ") and words in line
    assert made(workdir) == ["a", "c"] and {r["case_id"] for r in metrics(workdir)} == {"a", "c"}


@pytest.mark.parametrize("stage", ["write_meshes", "score_against"])
def test_an_exception_at_the_end_of_a_heart(workdir, capsys, monkeypatch, stage):
    error = KeyError("vertices")
    test_any_exception_of_one_heart(workdir, capsys, monkeypatch, error, "KeyError: 'vertices'", stage)


def test_files_that_are_none(workdir, capsys):
    """In one folder of label maps: a header of 40000^3 voxels, no image, an empty file, a folder, a dangling link."""
    data = workdir / "data"
    image = nib.Nifti1Image(np.pad(np.ones((12,) * 3, np.uint8), 6), np.diag([3.0, 3, 3, 1]))
    image.header.set_xyzt_units("mm")
    for name in ("a_sound", "z_sound"):
        nib.save(image, data / f"{name}.nii.gz")
    huge = bytearray(image.to_bytes())
    huge[40:56] = np.array([3, 32000, 32000, 32000, 1, 1, 1, 1], "<i2").tobytes()
    (data / "b_huge.nii.gz").write_bytes(gzip.compress(bytes(huge)))
    (data / "c_text.nii").write_text("no image")
    (data / "d_empty.mha").write_bytes(b"")
    (data / "e_folder.nrrd").mkdir()
    (data / "f_link.nii.gz").symlink_to(workdir / "nowhere")
    (data / os.fsdecode(b"g\xff.nii.gz")).write_bytes((data / "a_sound.nii.gz").read_bytes())
    assert run(workdir, "--no_meshes") == 1
    lines = told(capsys)
    assert [line.split(":")[0] for line in lines] == ["b_huge", "c_text", "d_empty", "e_folder", "f_link", r"g\xff"]
    assert "32000 x 32000 x 32000" in lines[0] and "not UTF-8" in lines[5]
    assert made(workdir) == ["a_sound", "z_sound"]


def test_case_files_that_are_none(workdir, capsys):
    """By a CSV: cut, missing, of a grid too large for memory, with a frame that is none."""
    three(workdir)
    data = workdir / "data"
    whole = (data / "b.npz").read_bytes()
    (data / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name, shape in (("huge", (40_000,) * 3), ("negative", (-5, 9, 9))):
        with np.load(data / "b.npz", allow_pickle=False) as archive:
            np.savez(data / f"{name}.npz", **{**archive, "frame_shape": np.array(shape, np.int32)})
    names = ["a", "cut", "huge", "missing", "negative", "c"]
    (workdir / "hearts.csv").write_text("case_id,file\n" + "".join(f"{n},{n}.npz\n" for n in names))
    assert run(workdir, "--no_meshes", "--input", workdir / "hearts.csv", "--data_path", data) == 1
    lines = {line.split(":")[0]: line for line in told(capsys)}
    assert set(lines) == {"cut", "huge", "missing", "negative"} and made(workdir) == ["a", "c"]
    assert "whole case file" in lines["cut"] and "no file of this name" in lines["missing"]
    assert "40000 x 40000 x 40000 voxels takes about" in lines["huge"] and "are free" in lines["huge"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--spacing", "0.05", "--no_meshes"), "voxels takes about"),
        (("--mesh_cells", "20000"), "a grid of 20000 x 20000 x 20000 cells for meshes takes about 224 TB"),
    ],
)
def test_sizes_are_asked_before_anything_is_decoded(workdir, capsys, monkeypatch, options, words):
    make_case(workdir / "data" / "a.npz")
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**8)
    monkeypatch.setattr(heart_result, "decode_label_map", lambda *a, **k: pytest.fail("decoded"))
    assert run(workdir, *options) == 1
    (line,) = told(capsys)
    assert words in line and "100 MB are free" in line and made(workdir) == []


def test_a_folder_of_one_heart_that_cannot_be_written(workdir, capsys):
    three(workdir)
    (workdir / "out").mkdir()
    (workdir / "out" / "b").write_text("a file of this name")
    assert run(workdir, "--no_meshes") == 1
    (line,) = told(capsys)
    assert line.startswith("b: ") and "there is a file of that name" in line and made(workdir) == ["a", "c"]
    assert (workdir / "out" / "b").read_text() == "a file of this name"


def test_latents_of_which_one_is_broken(workdir, capsys):
    three(workdir)
    assert run(workdir, "--no_meshes", "--latents") == 0
    latents = shutil.copytree(workdir / "out", workdir / "latents")
    (latents / "b" / "latents.npz").write_bytes(b"PK")
    shutil.rmtree(workdir / "out")
    words = ["--checkpoint", workdir / "checkpoint.pth", "--device", "cpu", "--no_meshes"]
    import reconstruct

    capsys.readouterr()
    out = ["--latents", latents, "--output_dir", workdir / "out"]
    assert run_command(reconstruct.main, [str(w) for w in words + out]) == 1
    assert [line.split(":")[0] for line in told(capsys)] == ["b"] and made(workdir) == ["a", "c"]


@pytest.mark.parametrize("content", ["[1]", "null", '{"baselines": 5}', "{", ""])
def test_a_result_that_is_none_is_made_again(workdir, content):
    make_case(workdir / "data" / "a.npz")
    (workdir / "out" / "a").mkdir(parents=True)
    (workdir / "out" / "a" / "result.json").write_text(content)
    assert run(workdir, "--no_meshes") == 0 and made(workdir) == ["a"]


def test_a_picture_that_fails_costs_no_other(workdir, capsys, monkeypatch):
    three(workdir)
    from vecset.inference import inputs, reconstruction

    monkeypatch.setattr(reconstruction, "MOST_KEPT", 0)  # truths are read again
    load_truth = inputs.load_truth

    def fails(heart, *more):
        if heart.case_id == "b":
            raise OSError(errno.EIO, "Input/output error", str(heart.path))
        return load_truth(heart, *more)

    monkeypatch.setattr(inputs, "load_truth", fails)
    assert run(workdir, "--no_meshes") == 1
    out, err = capsys.readouterr()
    faults = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(faults) == 2 and all("b" in f and "Input/output error" in f for f in faults)
    page = (workdir / "out" / "report.html").read_text(encoding="utf-8")
    assert "Not shown: report.html: b: " in page and (workdir / "out" / "overview.png").is_file()
    assert "to look at" in out and {r["case_id"] for r in metrics(workdir)} == {"a", "b", "c"}


def test_a_page_that_fails_costs_no_table(workdir, capsys, monkeypatch):
    make_case(workdir / "data" / "a.npz")
    from vecset.report import results

    def fails(*arguments):
        raise ValueError("no such colour")

    monkeypatch.setattr(results, "write_overview", fails)
    monkeypatch.setattr(results, "write_html_report", fails)
    assert run(workdir, "--no_meshes") == 1
    out, err = capsys.readouterr()
    assert err.count("ValueError: no such colour (test_isolation.py:") == 2 and "class_9" in out
    assert len(metrics(workdir)) == 10


def test_an_interrupt_leaves_no_half_heart(workdir, monkeypatch):
    make_case(workdir / "data" / "a.npz")

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(heart_result, "write_meshes", stop)
    assert run(workdir) == 130 and made(workdir) == []


@pytest.fixture
def quick_pages(monkeypatch):
    """Picture and page over all hearts, without the work."""

    def page(folder, *arguments):
        (folder / "report.html").write_text("page")
        return folder / "report.html"

    monkeypatch.setattr("vecset.report.results.write_html_report", page)
    monkeypatch.setattr("vecset.report.results.write_overview", lambda path, *arguments: path.write_text("picture"))


def stop_at(monkeypatch, name, before=lambda: None):
    """Ctrl-C when the files of a heart are about to be written; before each heart `before` is called."""
    working = heart_result.write_heart

    def stop(folder, *arguments):
        before()
        if folder.name == name:
            raise KeyboardInterrupt
        return working(folder, *arguments)

    monkeypatch.setattr(heart_result, "write_heart", stop)


def test_tables_do_not_speak_of_hearts_whose_files_are_gone(workdir, capsys, monkeypatch, quick_pages):
    """Finished hearts that are made again: meanwhile, and after a stop or a failure, no table has their figures."""
    for name in "ab":
        make_case(workdir / "data" / f"{name}.npz")

    def there():
        return {p.name for p in (workdir / "out").iterdir() if p.is_file()}

    assert run(workdir, "--no_meshes") == 0
    assert there() == {"metrics.csv", "metrics.json", "overview.png", "report.html"}
    capsys.readouterr()
    with monkeypatch.context() as patched:
        stop_at(patched, "b", lambda: there() == set() or pytest.fail("a table"))
        assert run(workdir, "--no_meshes", "--overwrite") == 130
    assert made(workdir) == ["a"] and there() == set()
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: metrics.csv, ")]
    assert len(notes) == 1 and "are removed" in notes[0]
    assert run(workdir, "--no_meshes") == 0 and {r["case_id"] for r in metrics(workdir)} == {"a", "b"}

    def fails(*arguments):
        raise MemoryError

    monkeypatch.setattr(heart_result, "write_heart", fails)
    assert run(workdir, "--no_meshes", "--overwrite") == 1
    assert made(workdir) == [] and there() == set()


def test_a_run_that_makes_none_of_the_finished_hearts_again_keeps_the_tables(workdir, monkeypatch, quick_pages):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--no_meshes") == 0
    table = (workdir / "out" / "metrics.csv").read_text()
    make_case(workdir / "data" / "b.npz")
    stop_at(monkeypatch, "b")
    assert run(workdir, "--no_meshes") == 130
    assert (workdir / "out" / "metrics.csv").read_text() == table


def test_info_goes_on_after_a_defect(workdir, capsys, monkeypatch):
    three(workdir)
    describe = info.describe

    def fails(path):
        if path.name == "b.npz":
            raise MemoryError if "memory" in os.environ.get("FAULT", "") else IndexError("7")
        return describe(path)

    monkeypatch.setattr(info, "describe", fails)
    files = [str(workdir / "data" / f"{n}.npz") for n in "abc"]
    assert run_command(info.main, files) == 2
    out, err = capsys.readouterr()
    assert out.count("a case file") == 2 and err.startswith(f"error: {files[1]}: IndexError: 7 (test_isolation.py:")
    monkeypatch.setenv("FAULT", "memory")
    assert run_command(info.main, files) == 2 and f"{files[1]}: not enough memory" in capsys.readouterr().err


@pytest.mark.slow
def test_a_disk_that_is_really_full(workdir, repository):
    """A file system of its own that takes one heart and a part of the next; then a larger one."""
    three(workdir)
    assert run(workdir, "--no_meshes", "--overwrite") == 0
    one = sum(p.stat().st_size for p in (workdir / "out" / "a").iterdir())
    disk = workdir / "disk"
    disk.mkdir()
    helper = repository / "tests" / "helpers" / "reconstruct_formula.py"
    words = f"{sys.executable} {helper} {workdir} --no_meshes --output_dir {disk}"
    script = (
        f"mount -t tmpfs -o size={one + 40960} none {disk} || exit 77\n"
        f"{words}; echo code $?\nfind {disk} -name '.tmp*'\n"
        f"mount -o remount,size=100m {disk}\n{words}; echo code $?\nls {disk}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "bash", "-c", script], capture_output=True, text=True, timeout=300
    )
    if "code" not in done.stdout:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    said = done.stdout.splitlines()
    assert [line for line in said if line.startswith("code")] == ["code 1", "code 0"], done
    assert "no space left" in done.stderr and "Traceback" not in done.stderr and ".tmp" not in done.stdout
    assert {"a", "b", "c", "metrics.csv", "report.html"} <= set(said)


def test_the_reasons_are_kept(workdir):
    assert reconstruction.Outcome(failed={"a": "b"}).failed["a"] == "b"


def test_hearts_that_fail_for_one_reason_are_told_it_once(workdir, capsys):
    for name in "abcde":
        make_case(workdir / "data" / f"{name}.npz", names=NAMES if name == "e" else [f"organ {n}" for n in NAMES])
    (workdir / "data" / "f.npz").write_bytes(b"no case")
    assert run(workdir, "--no_meshes") == 1
    first, *others, one = told(capsys)
    assert first.startswith("a: ") and first.count("organ class_1 is none of them") == 1
    assert others == [f"{name}: for the same reason as a" for name in "bcd"]
    assert one.startswith("f: ") and "f.npz: " in one
    assert made(workdir) == ["e"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_among_label_maps_is_not_waited_for(workdir, capsys):
    os.mkfifo(workdir / "data" / "a.nii.gz")
    assert run(workdir, "--no_meshes") == 1
    assert "a.nii.gz: it cannot be read (this is a pipe or a device, not a file)" in told(capsys)[0]


def test_calibrate_goes_on_without_a_broken_heart(workdir, capsys):
    three(workdir)
    data = workdir / "data"
    (data / "b.npz").write_bytes((data / "b.npz").read_bytes()[:5000])
    (workdir / "train.csv").write_text("case_id,file\n" + "".join(f"{n},{n}.npz\n" for n in ("a", "b", "missing")))
    from vecset import calibrate

    words = ["--checkpoint", workdir / "checkpoint.pth", "--csv", workdir / "train.csv", "--data_path", data]
    words = [str(word) for word in (*words, "--device", "cpu", "--output", workdir / "tuning.json")]
    assert run_command(calibrate.main, words) == 1
    err = capsys.readouterr().err
    assert "2 of 3 hearts failed, and the tuning is of the others:" in err and "Traceback" not in err
    assert "  b: " in err and "whole case file" in err and "  missing: " in err
    assert json.loads((workdir / "tuning.json").read_text(encoding="utf-8"))["hearts"] == ["a"]
    (workdir / "tuning.json").unlink()
    (data / "a.npz").unlink()
    assert run_command(calibrate.main, words) == 2 and not (workdir / "tuning.json").exists()
    assert "none of the 3 hearts can be used" in capsys.readouterr().err
