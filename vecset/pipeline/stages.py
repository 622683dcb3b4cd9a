"""Stages that know whether they are done.

A stage is one command. Its stamp, stages/NAME.json in the output folder, holds what the result depends on: options,
inputs, and the version of the method. Before the command runs, the stamp says `running`; after it, `done`. Run again:

    nothing changed, done, outputs there   nothing to do
    nothing changed otherwise              the command continues where it was stopped
    a limit changed (--max_steps)          the command continues from the present result
    options, inputs or method changed      the old results are put away, then the command runs

The source code is no part of that: it is recorded, and a difference is reported, but only a new method version makes
a stage run again. Standard library only, so that a finished pipeline answers at once.
"""

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import vecset
from vecset.common.atomic import write_text
from vecset.common.errors import EXIT_STOPPED, InputError, describe_failure
from vecset.common.signals import ENDING, catch, drop_lost_outputs, put_back
from vecset.pipeline.options import RENAMED

PACKAGE = Path(vecset.__file__).resolve().parent
CHILD_LEAVES_WITHIN_S = 120  # a stopped training run saves a checkpoint before it exits
PARTS = ("options", "inputs", "method")  # a change in one of them makes a stage run again


def listing(paths: Iterable, base) -> dict:
    """{path relative to `base`: [bytes, modification time in ns]} of the files among `paths`. It differs where a file
    was rewritten, and stays the same where the whole folder was moved."""
    found = {}
    for path in sorted(map(Path, paths)):
        if path.is_file():
            status = path.stat()
            found[str(path.relative_to(base))] = [status.st_size, status.st_mtime_ns]
    return found


def contents(paths: Iterable, base) -> dict:
    """{path relative to `base`: SHA-256} of the files among `paths`: small files that may be rewritten unchanged."""
    return {
        str(path.relative_to(base)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(map(Path, paths))
        if path.is_file()
    }


def code_version(package: Path = PACKAGE) -> dict:
    """{"version": of the package, "source": SHA-256 of all its Python files}."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return {"version": vecset.__version__, "source": digest.hexdigest()}


def constant(path: Path, name: str):
    """The value of the constant `name` at the top of a Python file. The file is read and not imported, because the
    packages that it imports take seconds. Raises LookupError where there is none."""
    for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    raise LookupError(f"{path} has no constant {name}")


@dataclass
class Stage:
    """One command of the pipeline.

    name: of the stamp; title: for the reader; method: version of the method, a number or a string;
    inputs() -> {path: a value that changes with the content}; options() -> {name: value} that the result depends on;
    defaults() -> {name: value} of options that a stamp may lack; limits() -> {name: value} of options that only say how
    long to continue; outputs() -> files that must exist when it is done; command(resumed) -> list of words;
    work() runs instead of a command; put_away(old_stamp, wanted, whole) removes the results of earlier options or
    inputs: all of them (`whole`), or those of the inputs that changed; accept(exit_code) -> whether the pipeline may
    continue; translate(stamp) -> a stamp without a method version in the present form.
    """

    name: str
    title: str
    method: int | str
    inputs: Callable
    options: Callable
    outputs: Callable
    command: Callable | None = None
    work: Callable | None = None
    defaults: Callable = dict
    limits: Callable = dict
    put_away: Callable = lambda old_stamp, wanted, whole: None
    accept: Callable = lambda exit_code: exit_code == 0
    translate: Callable = lambda stamp: stamp
    environment: dict = field(default_factory=dict)


class Stamps:
    """The stamps of one output folder, under `stages/`; paths in them are relative to the output folder.
    code: what `code_version` says now; other_code: names of the stages met so far that other code has finished."""

    def __init__(self, output_dir):
        self.output_dir = Path(output_dir)
        self.folder = self.output_dir / "stages"
        self.code = code_version()
        self.other_code = []

    def read(self, name: str) -> dict:
        """The stamp, or {} where there is none; one that cannot be read is told, and counts as none."""
        path = self.folder / f"{name}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            print(f"note: {describe_failure(path, error)}: the stage is done again", file=sys.stderr)
            return {}

    def write(self, name: str, stamp: dict):
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"{name}.json", json.dumps(stamp, indent=1) + "\n")


class RedoRequest:
    """The stages that --redo still has to run again, kept in stages/redo.json until the job ends. So the same command,
    run again after a stop, continues and does not repeat the stages that it has already redone."""

    def __init__(self, stamps: Stamps, asked: Iterable[str]):
        """asked: names of the stages that --redo names; without any, an earlier request stays until the job ends."""
        self.stamps, self.asked = stamps, sorted(asked)
        stored = stamps.read("redo")
        same = stored.get("asked") == self.asked and isinstance(stored.get("left"), list)
        self.left = stored["left"] if same else self.asked
        if self.asked:
            self._write()

    def done(self, name: str):
        """Takes a stage that has run off the request."""
        if name in self.left:
            self.left = [other for other in self.left if other != name]
            self._write()

    def end(self):
        """The whole job is done: the next --redo is a new request."""
        (self.stamps.folder / "redo.json").unlink(missing_ok=True)

    def _write(self):
        self.stamps.write("redo", {"asked": self.asked, "left": self.left})


def run_stage(stage: Stage, stamps: Stamps, say: Callable, label: str, redo: bool = False) -> str:
    """Does what is left of `stage`. Returns "done before" or "done". Raises InputError when it fails.

    say(line): prints and logs one line; label: e.g. "[2/6]"; redo: run it again although nothing changed. A redo that
    was interrupted continues.
    """
    wanted = {"options": stage.options(), "inputs": stage.inputs(), "method": stage.method, "limits": stage.limits()}
    wanted = json.loads(json.dumps(wanted, default=str))  # through JSON, as the stamp that it is compared with
    old = stamps.read(stage.name)
    if old and "method" not in old:
        old = stage.translate(old)
    running = old.get("state") == "running"
    requested = redo
    redo = redo and bool(old) and not (running and old.get("redo"))
    changes = changed_parts(old, wanted, stage.defaults())
    same = bool(old) and not changes and not redo
    longer = sorted(name for name in wanted["limits"] if old.get("limits", {}).get(name) != wanted["limits"][name])
    whole = bool(old.get("outputs")) and all((stamps.output_dir / p).is_file() for p in old["outputs"])
    if same and not running and whole and not longer:
        if old.get("code") != stamps.code:
            stamps.other_code.append(stage.name)
        say(f"{label} {stage.title}: done before ({old['seconds']:.0f} s){_noted(old)}")
        return "done before"
    if not same:
        if old:
            say(f"{label} {stage.title}: {'--redo' if redo else in_words(changes)}; it is done again")
        stage.put_away(old, wanted, redo or {"options", "method"} & changes.keys() != set())
    elif longer and not running:
        say(f"{label} {stage.title}: limits changed ({', '.join(longer)}); it continues")
    before = old.get("seconds", 0.0) if same else 0.0
    stamp = {
        "state": "running",
        **wanted,
        "code": stamps.code,
        "outputs": [],
        "seconds": before,
        "exit_code": 0,
        **({"redo": True} if requested or (same and old.get("redo")) else {}),
    }
    stamps.write(stage.name, stamp)
    start = time.time()
    say(f"{label} {stage.title}" + (" (continues)" if same else ""))
    exit_code = None
    try:
        if stage.work:
            stage.work()
            exit_code = 0
        else:
            exit_code = run_child(stage.command(same), stage.environment, say)
    finally:
        stamp["seconds"] = before + time.time() - start
        stamp["exit_code"] = exit_code
        stamp["outputs"] = [str(Path(path).relative_to(stamps.output_dir)) for path in stage.outputs()]
        stamps.write(stage.name, stamp)
    if not stage.accept(exit_code):
        raise InputError.because(
            stage.title,
            f"the command failed with exit code {exit_code}; its message is above",
            "remove the cause, or give the option that it names, and run the command again: it continues from here",
        )
    if not stamp["outputs"]:
        raise InputError.because(stage.title, "the command wrote no output files", "see the messages above")
    stamp.pop("redo", None)
    stamps.write(stage.name, {**stamp, "state": "done"})
    say(f"{label} {stage.title}: done in {stamp['seconds']:.0f} s{_noted(stamp)}")
    return "done"


def _noted(stamp):
    return f", with exit code {stamp['exit_code']}, accepted by --keep_going" if stamp.get("exit_code") else ""


def changed_parts(old: dict, wanted: dict, defaults: dict) -> dict:
    """{part: names that differ} between a stamp and what is wanted now; {} where nothing differs. An option that the
    stamp does not name counts as the default, and one that was renamed since (`RENAMED`) as the same option."""
    changes = {}
    if old.get("method") != wanted["method"]:
        changes["method"] = [f"{old.get('method')} -> {wanted['method']}"]
    known = {"options": json.loads(json.dumps(defaults, default=str))}
    options = {RENAMED.get(name, name): value for name, value in old.get("options", {}).items()}
    old = {**old, "options": options}
    for part in ("options", "inputs"):
        before, now = {**known.get(part, {}), **old.get(part, {})}, {**known.get(part, {}), **wanted[part]}
        names = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if names:
            changes[part] = names
    return changes


def in_words(changes: dict) -> str:
    """One phrase for what `changed_parts` found."""
    phrases = []
    for part in PARTS:
        if part in changes:
            names = [Path(name).name for name in changes[part]]
            more = f" and {len(names) - 3} more" if names[3:] else ""
            phrases.append(f"{part} changed ({', '.join(names[:3])}{more})")
    return ", ".join(phrases)


def run_child(words: list, environment: dict, say: Callable) -> int:
    """Runs a command on this terminal (its progress bars show) and returns its exit code. A signal that stops this
    process is passed on to the child, which gets time to save. Raises KeyboardInterrupt where the child was stopped."""
    say("  $ " + " ".join(str(word) for word in words), quiet=True)
    asked, child = [], None

    def pass_on(number, frame):
        if number == signal.SIGHUP:
            drop_lost_outputs()
        asked.append(number)
        if child:
            child.send_signal(number)

    previous = catch((*ENDING, signal.SIGUSR1), pass_on)
    try:
        child = subprocess.Popen([str(word) for word in words], env={**os.environ, **environment})
        for number in asked:  # signals that came before the child was started
            child.send_signal(number)
        exit_code = child.wait()
    except KeyboardInterrupt:  # the terminal has sent it to the child as well
        _wait_for(child)
        raise
    finally:
        put_back(previous)
    if asked or exit_code in (130, EXIT_STOPPED):  # a command without handlers of its own just ends by the signal
        raise KeyboardInterrupt
    return exit_code


def _wait_for(child):
    try:
        child.wait(CHILD_LEAVES_WITHIN_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        child.terminate()
        child.wait()
