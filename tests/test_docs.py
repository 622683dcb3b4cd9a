"""The pages tell the truth: paths and links exist, commands have their flags, the Python lines of the README run."""

import contextlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import pytest

from vecset.imaging.frame import UNIT_RADIUS
from vecset.imaging.label_map import write_label_map
from vecset.weights import checkpoint

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
REFERENCE = [page for page in PAGES if page.name not in ("log.md", "RESULTS.md")]  # those two tell what was
PASSED_ON = {  # behind `--`, or mixed with its own flags: whose flags a program takes besides
    "run_train.sh": "vecset/main_ae.py",
    "submit_phase1.sh": "vecset/main_ae.py",
    "run_phase1_sbatch.sh": "vecset/main_ae.py",
    "run_data_sbatch.sh": "prepare_data.py",
    "benchmarks/compression.py": "reconstruct.py",
    "benchmarks/difficult_cases.py": "reconstruct.py",
}
# flags of sbatch, srun, scontrol, torchrun, pip and py-spy that the pages mention
OF_OTHERS = {"--nproc_per_node", "--no-requeue", "--ntasks-per-node", "--cpus-per-task", "--test-only", "--mem-per-cpu"}
OF_OTHERS |= {"--kill-on-bad-exit", "--kill-on-invalid-dep", "--account", "--partition", "--nodes", "--gres", "--time"}
OF_OTHERS |= {"--array", "--batch", "--bind", "--export", "--mem", "--pid", "--signal"}
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*(?<!-)(?![\w-])")


def names(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


def blocks(text, fence):
    return re.findall(rf"^```{fence}\n(.*?)^```", text, re.M | re.S)


def commands(text):
    """Every command of a page as words: in indented or fenced blocks and in `inline code`."""
    text = re.sub(r"^```python\n.*?^```", "", text, flags=re.M | re.S)
    indented = re.sub(r"\\\n\s*", " ", "\n".join(re.findall(r"^ {4,}\S.*$", text, re.M)))
    inline = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    for line in [*indented.split("\n"), *inline]:
        if re.match(r"\s*(python|bash|sbatch|srun|torchrun) ", line):
            yield shlex.split(line, comments=True)


@lru_cache
def visible_flags(program):
    """The flags that `program --help` shows; of a Python program those of its usage lines, where no hidden alias is."""
    if program.endswith(".sh"):
        told = subprocess.run(["bash", ROOT / program, "--help"], capture_output=True, text=True, check=True).stdout
        return frozenset(FLAG.findall(told))
    told, state = io.StringIO(), (sys.argv, list(sys.path))
    sys.argv = [str(ROOT / program), "--help"]
    try:
        with contextlib.redirect_stdout(told), pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / program), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = state
    assert end.value.code in (0, None), program
    return frozenset(FLAG.findall(told.getvalue().split("\n\n")[0]))


def split_command(words):
    """(program, its words, words behind `--`), or None where the command is not one of ours."""
    for n, word in enumerate(words):
        if word == "-m" and words[n + 1].startswith("vecset."):
            program, rest = words[n + 1].replace(".", "/") + ".py", words[n + 2 :]
        elif word.endswith((".py", ".sh")):
            program, rest = word, words[n + 1 :]
        elif word == "pytest":
            return None
        else:
            continue
        cut = rest.index("--") if "--" in rest else len(rest)
        return program, rest[:cut], rest[cut + 1 :]
    return None


def flags(words):
    return {word for word in words if FLAG.fullmatch(word)}


@names(PAGES)
def test_commands_have_their_flags(page):
    for words in commands(page.read_text(encoding="utf-8")):
        if not (parts := split_command(words)):
            continue
        program, own, behind = parts
        program = {"main_ae.py": "vecset/main_ae.py"}.get(program, program)
        assert (ROOT / program).is_file(), words
        if not flags(own) and not behind:
            continue
        known = visible_flags(program)
        if program in ("run_data_sbatch.sh", "run_phase1_sbatch.sh"):
            known = known | visible_flags(PASSED_ON[program])
        assert flags(own) <= known | {"--help"}, (program, flags(own) - known)
        if behind:
            assert flags(behind) <= visible_flags(PASSED_ON[program]), words
        for n, word in enumerate(own):
            if word == "--prepare_options":
                assert flags(own[n + 1].split()) <= visible_flags("prepare_data.py"), words


@names(REFERENCE)
def test_flags_in_the_text_exist(page):
    programs = [p.name for p in ROOT.glob("*.py")] + ["run_tests.sh"]
    programs += [f"vecset/{name}.py" for name in ("main_ae", "calibrate", "complete", "shape_model", "quality/rank")]
    programs += [name for name in PASSED_ON if name.endswith(".sh")]
    known = OF_OTHERS.union(*map(visible_flags, programs))
    of_benchmarks = r"`python\s+benchmarks/[^`]*`|^ {4,}python benchmarks/.*$"
    text = re.sub(rf"{of_benchmarks}|--NAME_weight", "", page.read_text(encoding="utf-8"), flags=re.M)
    assert set(FLAG.findall(text)) <= known, set(FLAG.findall(text)) - known


@names(REFERENCE)
def test_paths_exist(page):
    text = re.sub(r"\]\([^)]*\)", "]", page.read_text(encoding="utf-8"))  # links have a test of their own
    for path in re.findall(r"(?<![\w/.-])(?:vecset|tests|docs|benchmarks)/[\w/.-]*\w", text):
        assert (ROOT / path).exists(), path
    tracked = {p.name for folder in ("vecset", "benchmarks", "tests") for p in (ROOT / folder).rglob("*.py")}
    tracked |= {p.name for p in ROOT.iterdir()}
    for name in re.findall(r"(?<![\w/.*-])\w+\.(?:py|sh)\b", text):
        assert name in tracked, name


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@names(PAGES)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, headings), target


@names(REFERENCE)
def test_functions_exist(page):
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "vecset").rglob("*.py"))
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`(?:[a-z_]+\.)*(\w+)\([^`]*\)`", text):
        if name not in ("main", "model", "exit"):
            assert re.search(rf"^\s*(?:def|class) {name}\b", source, re.M), name
    for name in re.findall(r"`([A-Z][A-Z_]{4,})`", text):
        assert re.search(rf"^{name}\b", source, re.M), name
    for module, name in re.findall(r"`(vecset(?:\.[a-z_]+)+)\.([A-Z]\w+)`", text):
        assert re.search(rf"^class {name}\b", (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"), re.M)


def test_the_readme_is_short_and_finished():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").split("\n")
    assert len(lines) <= 120
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n")) <= 60


@pytest.fixture
def demo_heart(workdir, monkeypatch):
    """What the lines of the README read: a checkpoint, whose network is a ball of eight octants, and the label map of
    such a ball, as large in its frame."""
    from helpers.formula_hearts import centred_ball, make_heart

    network = centred_ball()
    network.distance = lambda points: points.norm(dim=1) - UNIT_RADIUS
    monkeypatch.setattr(checkpoint, "model_from_checkpoint", lambda saved, device, where: network.to(device))
    labels, frame = make_heart()
    write_label_map(workdir / "heart.nii.gz", labels, frame.affine)
    train = workdir / "output" / "demo" / "train"
    train.mkdir(parents=True)
    (workdir / "checkpoint.pth").rename(train / "checkpoint-best.pth")
    monkeypatch.chdir(workdir)
    return labels


@pytest.mark.slow
def test_python_lines_of_the_readme_run(demo_heart):
    (lines,) = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    assert 8 <= len(lines.strip().split("\n")) <= 14
    exec(compile(lines, "README.md", "exec"), {})
    stored = np.asarray(nibabel.load("labels.nii.gz").dataobj)
    assert (stored == demo_heart).mean() > 0.98 and len(np.unique(stored)) == 9
    assert len(list(Path().glob("*.ply"))) == 8
