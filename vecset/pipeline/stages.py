"""Stages that know whether they are done: a fingerprint of inputs, options and code, kept in a stamp.

A stage is one command. Before it runs, its stamp says `running` and the fingerprint; after it, `done`. Run again:

    same fingerprint, done, outputs there   nothing to do
    same fingerprint otherwise              the command goes on where it was stopped
    another fingerprint                     what the old one made is put away first, then the command runs

Standard library only, so that a finished pipeline answers at once.
"""

import ast
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vecset.common.atomic import write_text
from vecset.common.errors import EXIT_STOPPED, InputError

ROOT = Path(__file__).resolve().parents[2]
CHILD_LEAVES_WITHIN_S = 120  # a stopped training run saves a checkpoint before it goes


def listing(paths, base):
    """{path relative to `base`: [bytes, modification time in ns]} of the files among `paths`: a change of content
    shows in it, a move of the whole folder does not."""
    found = {}
    for path in sorted(map(Path, paths)):
        if path.is_file():
            status = path.stat()
            found[str(path.relative_to(base))] = [status.st_size, status.st_mtime_ns]
    return found


def contents(paths, base):
    """{path relative to `base`: SHA-256} of the files among `paths`: small ones that may be rewritten unchanged."""
    return {
        str(path.relative_to(base)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(map(Path, paths))
        if path.is_file()
    }


def imported_files(script, root=ROOT):
    """`script` and every file of the repository that it imports, directly or not: the code version of a stage."""
    todo, found = [Path(script)], set()
    while todo:
        path = todo.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                module = root.joinpath(*name.split("."))
                todo += [module.with_suffix(".py"), module / "__init__.py"]
    return sorted(found)


@dataclass
class Stage:
    """One command of the pipeline.

    name: of the stamp; title: for the reader; script: the file that runs; command(resumed) -> list of words;
    inputs() -> {path: anything that changes with the content}; options: everything else the result depends on;
    outputs() -> files that must be there when it is done; put_away(old_stamp, wanted): takes away what an earlier
    fingerprint made, `wanted` being the options, inputs and code of now; accept(exit_code) -> whether the pipeline may
    go on; work() runs instead of a command.
    """

    name: str
    title: str
    script: Path
    inputs: Callable
    outputs: Callable
    options: dict
    command: Callable = None
    put_away: Callable = lambda old_stamp, wanted: None
    accept: Callable = lambda exit_code: exit_code == 0
    work: Callable = None
    environment: dict = field(default_factory=dict)


class Stamps:
    """The stamps of one output folder, under `stages/`; paths in them are relative to the output folder."""

    def __init__(self, output_dir):
        self.output_dir = Path(output_dir)
        self.folder = self.output_dir / "stages"

    def read(self, name):
        """The stamp as a dict, or {} when there is none that can be read."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def write(self, name, stamp):
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"{name}.json", json.dumps(stamp, indent=1) + "\n")


def run_stage(stage, stamps, say, label):
    """Does what is left of `stage`. Returns "done before" or "done". Raises InputError when it fails.

    say(line): prints and logs one line; label: e.g. "[2/6]".
    """
    inputs, code = stage.inputs(), contents(imported_files(stage.script), ROOT)
    # through JSON, so that what is compared with an old stamp looks like one
    wanted = json.loads(json.dumps({"options": stage.options, "inputs": inputs, "code": code}, default=str))
    fingerprint = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    old = stamps.read(stage.name)
    same = old.get("fingerprint") == fingerprint
    whole = bool(old.get("outputs")) and all((stamps.output_dir / p).is_file() for p in old["outputs"])
    if same and old["state"] == "done" and whole:
        say(f"{label} {stage.title}: done before ({old['seconds']:.0f} s){_noted(old)}")
        return "done before"
    if not same:
        if old:
            say(f"{label} {stage.title}: {what_changed(old, wanted)}; it is done again")
        stage.put_away(old, wanted)
    before = old.get("seconds", 0.0) if same else 0.0
    stamp = {"state": "running", "fingerprint": fingerprint, **wanted, "outputs": [], "seconds": before, "exit_code": 0}
    stamps.write(stage.name, stamp)
    start = time.time()
    say(f"{label} {stage.title}" + (" (goes on)" if same else ""))
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
        raise InputError(
            f"{stage.title}",
            "exit code 0",
            f"exit code {exit_code}; what is wrong stands above",
            "put it right and run the same command again: it goes on from here",
        )
    if not stamp["outputs"]:
        raise InputError(stage.title, "output files", "none", "see the messages above")
    stamps.write(stage.name, {**stamp, "state": "done"})
    say(f"{label} {stage.title}: done in {stamp['seconds']:.0f} s{_noted(stamp)}")
    return "done"


def _noted(stamp):
    return f", with exit code {stamp['exit_code']}, accepted by --keep_going" if stamp.get("exit_code") else ""


def what_changed(old, wanted):
    """In words: which of options, inputs and code differ between a stamp and what is wanted now."""
    changes = []
    for part in ("options", "inputs", "code"):
        before, now = old.get(part, {}), wanted[part]
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if keys:
            names = ", ".join(Path(key).name for key in keys[:3]) + (f" and {len(keys) - 3} more" if keys[3:] else "")
            changes.append(f"{part} changed ({names})")
    return ", ".join(changes) or "the stamp is of another version"


def run_child(words, environment, say):
    """Runs a command on this terminal (its progress bars show) and returns its exit code; a signal that stops this
    process reaches the child, which is given time to save and leave."""
    say("  $ " + " ".join(str(word) for word in words), quiet=True)
    asked, child = [], None

    def pass_on(number, frame):
        asked.append(number)
        if child:
            child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        child = subprocess.Popen([str(word) for word in words], env={**os.environ, **environment})
        for number in asked:  # what came before there was a child
            child.send_signal(number)
        exit_code = child.wait()
    except KeyboardInterrupt:  # the terminal has sent it to the child as well
        _leave(child)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if asked or exit_code in (130, EXIT_STOPPED):  # a command that knows nothing of signals just ends by them
        raise KeyboardInterrupt
    return exit_code


def _leave(child):
    try:
        child.wait(CHILD_LEAVES_WITHIN_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        child.terminate()
        child.wait()


def move_aside(folder):
    """Renames `folder` to `folder.old-N` (the first N that is free): a run that took hours is never deleted."""
    folder = Path(folder)
    if not folder.exists():
        return None
    number = 1
    while folder.with_name(f"{folder.name}.old-{number}").exists():
        number += 1
    return folder.rename(folder.with_name(f"{folder.name}.old-{number}"))
