"""No handler hides a fault: one that catches everything raises or says what it caught. One that drops an OSError
without a word stands in a list here, with the reason."""

import ast
import re

import pytest

BROAD = {"Exception", "BaseException"}
DISK = {"OSError", "IOError", "EnvironmentError"}

# (file, function): why an OSError there may go without a word
ALLOWED = {
    ("benchmarks/headless_chromium.py", "__exit__"): "the browser has ended before; it is ended all the same",
    ("benchmarks/headless_chromium.py", "_wait_for_driver"): "not ready yet; after a minute this raises",
    ("benchmarks/quality_speed.py", "fill"): "no hard links here: the file is copied, which raises what is wrong",
    ("vecset/common/atomic.py", "atomic_path"): "some network disks refuse to sync a folder; the file has its name",
    ("vecset/common/atomic.py", "remove_leftovers"): "another process has removed the file, or it is not ours",
    ("vecset/common/cores.py", "_lines"): "no such control group: no limit is known",
    ("benchmarks/gpu_session.py", "read_json"): "the part that writes it was ended; the table says so",
    ("vecset/common/memory.py", "_lines"): "no such control group: no limit is known",
    ("vecset/common/signals.py", "print_line"): "nobody can read the output any more, so nobody could read this",
    ("vecset/common/streams.py", "standard_streams"): "the stream is closed: it gets the null device",
    ("vecset/data/label_folder.py", "_is_dicom"): "a file that no suffix makes a label map either; it is left out",
    ("vecset/engines/run_folder.py", "_trained_again"): "these files only add to a message",
    ("vecset/engines/saving.py", "lock_folder"): "a file system without locks; the docstring says what that means",
    ("vecset/engines/tasks.py", "_write_and_read"): "the folder is not empty, so it stays",
    ("vecset/imaging/image_file.py", "_silent_stderr"): "the process has no stderr that could be silenced",
    ("vecset/inference/heart_files.py", "discard"): "the folder is not empty, so it stays",
    ("vecset/inference/heart_files.py", "is_placed"): "the heart is made again, and writing says what is wrong",
    ("vecset/inference/own_tables.py", "_names_nothing"): "the heart is read later, which says what is wrong",
    ("vecset/inference/own_tables.py", "own_tables"): "the heart is read later, which says what is wrong",
    ("vecset/inference/reconstruction.py", "_read_result"): "the heart is made again, and writing says what is wrong",
    ("vecset/info.py", "_run_state"): "a checkpoint that was copied alone; its own status is shown",
    ("vecset/weights/checkpoint.py", "copy_checkpoint"): "no hard links here: it is copied, which raises what is wrong",
    ("vecset/pipeline/main.py", "main"): "a file system without locks",
}


def sources(repository):
    for folder in ("vecset", "benchmarks"):
        yield from sorted((repository / folder).rglob("*.py"))
    yield from sorted(repository.glob("*.py"))


def caught(node):
    """Names of the exceptions of a handler, or of the arguments of suppress()."""
    parts = node.elts if isinstance(node, ast.Tuple) else [node] if node is not None else []
    return {ast.unparse(part).rsplit(".", 1)[-1] for part in parts} or {"BaseException"}


def speaks(handler):
    """Whether a handler raises, or uses the error that it caught."""
    inside = [node for statement in handler.body for node in ast.walk(statement)]
    names = {node.id for node in inside if isinstance(node, ast.Name)}
    return any(isinstance(node, ast.Raise) for node in inside) or (handler.name is not None and handler.name in names)


def functions(tree):
    """{node: name of the innermost function round it} of all nodes."""
    found = {}

    def visit(node, name):
        found[node] = name
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else name
            visit(child, inner)

    visit(tree, "module")
    return found


def faults(tree):
    """[(line, function, problem, whether it may be allowed)] of a module."""
    place, found = functions(tree), []

    def add(node, problem, allowable=False):
        found.append((node.lineno, place[node], problem, allowable))

    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and not speaks(node):
            names = caught(node.type)
            if names & BROAD:
                add(node, "catches everything and does not say what")
            elif names & DISK:
                add(node, "drops an OSError", allowable=True)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rsplit(".", 1)[-1]
            if name == "suppress":
                names = set().union(*map(caught, node.args)) if node.args else set()
                if names & BROAD:
                    add(node, "suppresses everything")
                elif names & DISK:
                    add(node, "drops an OSError", allowable=True)
            for word in node.keywords:
                value = word.value.value if isinstance(word.value, ast.Constant) else None
                if (word.arg, value) in (("errors", "ignore"), ("ignore_errors", True)):
                    add(node, f"{word.arg}={value!r}")
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if name in ("decode", "encode") and "ignore" in words:
                add(node, "drops what it cannot decode")
    return found


def test_no_fault_is_hidden(repository):
    hidden, used = [], set()
    for path in sources(repository):
        name = path.relative_to(repository).as_posix()
        for line, function, problem, allowable in faults(ast.parse(path.read_text(encoding="utf-8"))):
            if allowable and (name, function) in ALLOWED:
                used.add((name, function))
            else:
                hidden.append(f"{name}:{line} in {function}: {problem}")
    assert not hidden, "\n".join(hidden)
    assert used == set(ALLOWED), set(ALLOWED) - used


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("try: f()\nexcept Exception: pass", 1),
        ("try: f()\nexcept: pass", 1),
        ("try: f()\nexcept (KeyError, Exception): g()", 1),
        ("try: f()\nexcept Exception as error: g()", 1),
        ("try: f()\nexcept BaseException:\n  g()\n  raise", 0),
        ("try: f()\nexcept Exception as error: print(error)", 0),
        ("try: f()\nexcept Exception as error: faults.append(describe_failure('x', error))", 0),
        ("with contextlib.suppress(Exception): f()", 1),
        ("with suppress(KeyError): f()", 0),
        ("with suppress(KeyError, OSError): f()", 1),
        ("try: f()\nexcept OSError: pass", 1),
        ("try: f()\nexcept FileNotFoundError: pass", 0),
        ("open('x', errors='ignore')", 1),
        ("b'x'.decode('utf-8', 'ignore')", 1),
        ("shutil.rmtree('x', ignore_errors=True)", 1),
        ("open('x', errors='replace')", 0),
    ],
)
def test_what_counts_as_hidden(code, expected):
    assert len(faults(ast.parse(code))) == expected


# (script, a part of the line): why what is said there may be dropped
SHELL_ALLOWED = {
    ("cluster.sh", "getent passwd"): "no such user: the message that follows says so",
    ("cluster.sh", "scontrol show job"): "a question; without an answer the folder of the script counts",
    ("cluster.sh", "type module"): "a question",
    ("cluster.sh", "sys.version_info < (3, 11)"): "a question; the message that follows says what is wanted",
    ("cluster.sh", "grep -vE"): "grep ends with 1 where no line is left",
    ("cluster.sh", "rev-parse --short HEAD"): "no git, or no clone: 'unknown' is printed",
    ("environment.sh", "sys.version_info < (3, 11)"): "a question, of each Python on the path",
    ("environment.sh", "pip config list"): "a question; pip itself says more where it is needed",
    ("environment.sh", "paste -sd ' ') || true"): "grep ends with 1 where no line is left",
    ("environment.sh", "import ensurepip, venv"): "a question, of each Python on the path",
    ("environment.sh", "bin/activate"): "no such file: the environment is made anew",
    ("environment.sh", 'cat "$stamp"'): "no such file: the environment is made anew",
    ("environment.sh", "-m pip --version"): "a question; ensurepip's words are told where it fails",
    ("run_phase1_sbatch.sh", "rm -rf -- "): "a copy on a node that is gone; rm says what it could not remove",
    ("run_phase1_sbatch.sh", "kill -0"): "a question",
    ("run_phase1_sbatch.sh", 'kill "$repeating"'): "it has ended by itself",
    ("submit_phase1.sh", "squeue --noheader"): "asked again for its words where it fails",
    ("submit_phase1.sh", "flock --nonblock"): "a file system without locks",
}


def test_shell_scripts_drop_nothing_but_answers(repository):
    hidden, used = [], set()
    for path in sorted(repository.glob("*.sh")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not re.search(r"2> ?/dev/null|/dev/null 2>&1|&> ?/dev/null|\|\| (true|:)(\s|;|\)|$)", line):
                continue
            reasons = [key for key in SHELL_ALLOWED if key[0] == path.name and key[1] in line]
            used |= set(reasons)
            if not reasons:
                hidden.append(f"{path.name}:{number}: {line.strip()}")
    assert not hidden, "\n".join(hidden)
    assert used == set(SHELL_ALLOWED), set(SHELL_ALLOWED) - used
