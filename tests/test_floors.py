"""The house: which folder may import which, without circles; what a bare PyTorch image can import; where tests lie.

Imports are read from the source: those inside functions too, and modules that are imported by a name in quotes.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# from the ground up; a folder (or a module of vecset itself) imports from its own folder and from floors below
FLOORS = [
    {"common"},
    {"imaging", "geometry", "models"},
    {"phantom", "data", "weights"},
    {"items"},
    {"metrics", "sparse"},
    {"engines", "fields"},
    {"inference"},
    {"quality"},
    {"report"},
    {"commands"},
    {"pipeline", "cluster"},
    {"main_ae", "calibrate", "complete", "info", "release", "shape_model"},
]
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}
FOLDERS = sorted(path.parent.name for path in ROOT.glob("vecset/*/__init__.py"))
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.glob("vecset/**/*.py"))
    if path.name != "__init__.py"
}
LARGEST_FOLDER = 16  # modules


def imported_names(path):
    """Dotted names of all that a source file imports, wherever in it: `from a import b` gives a.b, `import_module("a")`
    and `__import__("a")` give a. A name that is computed cannot be read from the source."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports are not used here"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))  # of a.b(), b(): b
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def module_of(dotted):
    """The module of vecset that `dotted` lies in: itself, or the one that a function of it was taken from."""
    while dotted not in MODULES:
        dotted = dotted.rpartition(".")[0]
        if not dotted:
            return None
    return dotted


IMPORTS = {name: {module_of(d) for d in imported_names(path)} - {None, name} for name, path in MODULES.items()}


def folder_of(module):
    return module.split(".")[1]


def test_every_folder_and_module_has_its_floor():
    assert {folder_of(module) for module in MODULES} == set(FLOOR_OF)


def test_no_import_runs_up():
    found = {
        (module, other)
        for module, others in IMPORTS.items()
        for other in others
        if folder_of(module) != folder_of(other) and FLOOR_OF[folder_of(module)] <= FLOOR_OF[folder_of(other)]
    }
    assert not found


def test_no_circle_among_modules():
    try:
        order = list(graphlib.TopologicalSorter(IMPORTS).static_order())
    except graphlib.CycleError as circle:
        pytest.fail("a circle of imports: " + " -> ".join(circle.args[1]))
    assert len(order) == len(MODULES)


def test_nothing_imports_a_root_script():
    found = set()
    for path in [*MODULES.values(), *ROOT.glob("*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        roots = {name.split(".")[0] for name in imported_names(path)}
        if roots & set(SCRIPTS):
            found.add(path.name)
        assert not roots & {"tests", "helpers"}, path
    assert not found


BARE = """
import importlib, sys
class Bare:  # stands in for a bare PyTorch image: whatever is neither torch's, numpy's nor ours cannot be imported
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError("not in a bare image: " + name, name=name)
sys.meta_path.insert(0, Bare())
sys.path.insert(0, {root!r})
for module in {modules!r}:
    importlib.import_module(module)
"""


def test_models_engines_and_main_ae_need_torch_and_numpy_alone():
    requirements = (ROOT / "requirements.txt").read_text().splitlines()
    packages = {line.split("==")[0].lower() for line in requirements if "==" in line}
    named = {
        "scikit-image": "skimage",
        "scikit-learn": "sklearn",
        "simpleitk": "SimpleITK",
        "pillow": "PIL",
        "tensorboardx": "tensorboardX",
    }
    named["fast-simplification"] = "fast_simplification"
    missing = {named.get(package, package) for package in packages - {"torch", "numpy"}}
    modules = [m for m in MODULES if folder_of(m) in ("models", "weights", "engines", "main_ae")]
    modules.remove("vecset.models.farthest_points_cuda")  # needs Triton, and is imported only on a GPU
    code = BARE.format(missing=missing, root=str(ROOT), modules=modules)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_says_what_belongs_there_and_stays_small(folder):
    says = ast.get_docstring(ast.parse((ROOT / "vecset" / folder / "__init__.py").read_text(encoding="utf-8")))
    assert says and says.endswith(".") and len(says) < 300, "what belongs there, and what does not"
    modules = [name for name in MODULES if folder_of(name) == folder]
    assert 1 < len(modules) <= LARGEST_FOLDER


def test_tests_lie_where_what_they_test_lies():
    beside = {"helpers", "integration", "benchmarks"}
    for path in ROOT.glob("tests/**/test_*.py"):
        parts = path.relative_to(ROOT / "tests").parts
        assert len(parts) <= 2 and (len(parts) == 1 or parts[0] in beside | set(FOLDERS)), path
    tested = {path.parent.name for path in ROOT.glob("tests/*/test_*.py")}
    assert set(FOLDERS) <= tested


def test_no_test_imports_another():
    for path in ROOT.glob("tests/**/*.py"):
        for name in imported_names(path):
            assert not name.startswith("tests.") and ".test_" not in f".{name}", f"{path} imports {name}"
