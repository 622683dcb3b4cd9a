"""Stages: nothing is done twice, nothing that changed is kept, and a failure says so."""

import os
import signal
import sys
import textwrap

import pytest

from vecset.common.errors import InputError
from vecset.pipeline.stages import (
    Stage,
    Stamps,
    code_version,
    constant,
    contents,
    listing,
    run_child,
    run_stage,
)


class Bench:
    """One stage in a folder: copies input.txt to out/result.txt and counts its runs in runs.txt."""

    def __init__(self, folder):
        self.folder, self.out, self.lines = folder, folder / "out", []
        self.out.mkdir()
        (folder / "input.txt").write_text("one")
        self.options, self.limits, self.put_away_calls = {"factor": 1}, {}, []
        self.other_code = []

    def stage(self, body="", **changes):
        script = self.folder / "script.py"
        script.write_text(
            textwrap.dedent(f"""
            import sys
            from pathlib import Path
            here = Path({str(self.folder)!r})
            with (here / "runs.txt").open("a") as handle:
                handle.write("x")
            {body}
            (here / "out" / "result.txt").write_text((here / "input.txt").read_text())
        """)
        )
        stage = Stage(
            "copy",
            "a copy",
            1,
            inputs=lambda: contents([self.folder / "input.txt"], self.folder),
            options=lambda: self.options,
            limits=lambda: self.limits,
            outputs=lambda: [p for p in [self.out / "result.txt"] if p.exists()],
            put_away=lambda old, wanted, whole: self.put_away_calls.append((old.get("state"), whole)),
            command=lambda resumed: [sys.executable, script],
        )
        for name, value in changes.items():
            setattr(stage, name, value)
        return stage

    def run(self, *args, redo=False, code=None, **changes):
        stamps = Stamps(self.out)
        stamps.code = code or stamps.code
        try:
            return run_stage(self.stage(*args, **changes), stamps, self.say, "[1/1]", redo)
        finally:
            self.other_code = stamps.other_code

    def say(self, line, quiet=False):
        self.lines.append(line)

    @property
    def runs(self):
        return len((self.folder / "runs.txt").read_text())


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_finished_stage_is_not_done_again(bench):
    assert bench.run() == "done"
    assert bench.run() == "done before"
    assert bench.runs == 1


def test_changed_input_option_or_method_is_done_again_and_named(bench):
    bench.run()
    (bench.folder / "input.txt").write_text("two")
    assert bench.run() == "done" and (bench.out / "result.txt").read_text() == "two"
    assert any("inputs changed (input.txt)" in line for line in bench.lines)
    bench.options["factor"] = 2
    assert bench.run() == "done" and any("options changed (factor)" in line for line in bench.lines)
    assert bench.run(method=2) == "done" and any("method changed (1 -> 2)" in line for line in bench.lines)
    assert bench.runs == 4
    assert bench.put_away_calls == [(None, True), ("done", False), ("done", True), ("done", True)]


def test_changed_code_is_reported_and_nothing_is_done_again(bench):
    bench.run(code={"version": "0.1.0", "source": "a"})
    assert bench.run("pass", code={"version": "0.1.0", "source": "a"}) == "done before" and bench.other_code == []
    assert bench.run(code={"version": "0.1.0", "source": "b"}) == "done before" and bench.other_code == ["copy"]
    assert bench.runs == 1


def test_an_option_that_the_stamp_does_not_name_counts_as_the_default(bench):
    bench.run()
    bench.options = {"factor": 1, "new": 0}
    assert bench.run(defaults=lambda: {"factor": 1, "new": 0}) == "done before"
    bench.options = {"factor": 1, "new": 5}
    assert bench.run(defaults=lambda: {"factor": 1, "new": 0}) == "done" and bench.runs == 2


def test_a_changed_limit_goes_on_from_the_present_result(bench):
    bench.limits = {"max_steps": 4}
    bench.run()
    assert bench.run() == "done before"
    bench.limits = {"max_steps": 8}
    assert bench.run() == "done" and bench.runs == 2
    assert len(bench.put_away_calls) == 1
    assert any("limits changed (max_steps); it continues" in line for line in bench.lines)
    assert bench.run() == "done before"


def test_redo_runs_a_finished_stage_again_and_puts_everything_away(bench):
    bench.run()
    assert bench.run(redo=True) == "done" and bench.runs == 2
    assert bench.put_away_calls[1:] == [("done", True)]
    assert any("--redo; it is done again" in line for line in bench.lines)
    assert bench.run() == "done before"


def test_an_interrupted_redo_goes_on_with_the_same_command(bench):
    bench.run()
    with pytest.raises(InputError):
        bench.run("sys.exit(3)", redo=True)
    assert bench.run(redo=True) == "done"
    assert len(bench.put_away_calls) == 2 and any("(continues)" in line for line in bench.lines)
    assert bench.run(redo=True) == "done" and len(bench.put_away_calls) == 3, "that redo was finished"


def test_a_first_run_with_redo_that_was_stopped_continues(bench):
    with pytest.raises(InputError):
        bench.run("sys.exit(3)", redo=True)
    assert bench.run(redo=True) == "done" and len(bench.put_away_calls) == 1


def test_an_option_that_was_renamed_is_no_change_but_another_value_is(bench):
    bench.options = {"class_gap": 3}
    bench.run()
    bench.options = {"fps_class_gap": 3}
    assert bench.run(defaults=lambda: {"fps_class_gap": 0}) == "done before"
    bench.options = {"fps_class_gap": 4}
    assert bench.run(defaults=lambda: {"fps_class_gap": 0}) == "done"
    assert any("options changed (fps_class_gap)" in line for line in bench.lines)


def test_a_stage_that_was_killed_goes_on(bench):
    bench.run()
    stamps = Stamps(bench.out)
    stamps.write("copy", {**stamps.read("copy"), "state": "running", "outputs": []})  # as kill -9 leaves it
    assert bench.run() == "done" and bench.runs == 2 and len(bench.put_away_calls) == 1


def test_code_version_sees_a_comment_and_constant_reads_without_importing(tmp_path):
    (tmp_path / "a.py").write_text("import no_such_package\nVERSION = 3  # of the method\n")
    before = code_version(tmp_path)
    assert constant(tmp_path / "a.py", "VERSION") == 3
    with pytest.raises(LookupError, match="OTHER"):
        constant(tmp_path / "a.py", "OTHER")
    with (tmp_path / "a.py").open("a") as handle:
        handle.write("# a comment\n")
    assert code_version(tmp_path) != before and code_version(tmp_path)["version"] == before["version"]


def test_a_lost_output_is_made_again_without_putting_the_rest_away(bench):
    bench.run()
    (bench.out / "result.txt").unlink()
    assert bench.run() == "done"
    assert bench.runs == 2 and len(bench.put_away_calls) == 1


def test_failure_is_one_clear_error_and_the_next_run_goes_on(bench):
    with pytest.raises(InputError, match="exit code 3"):
        bench.run('sys.exit(3) if not (here / "repaired").exists() else None')
    (bench.folder / "repaired").touch()
    assert bench.run('sys.exit(3) if not (here / "repaired").exists() else None') == "done"
    assert len(bench.put_away_calls) == 1, "what the stopped run had made is kept"
    assert any("(continues)" in line for line in bench.lines)


def test_a_stage_without_output_is_no_success(bench):
    with pytest.raises(InputError, match="wrote no output files"):
        bench.run("sys.exit(0)")
    assert Stamps(bench.out).read("copy")["state"] == "running"


def test_an_accepted_exit_code_is_said_every_time(bench):
    body = '(here / "out" / "result.txt").write_text("half"); sys.exit(1)'
    assert bench.run(body, accept=lambda code: True) == "done"
    assert bench.run(body, accept=lambda code: True) == "done before"
    assert all("exit code 1" in line for line in bench.lines if "done" in line)


def test_a_moved_output_folder_is_still_done(bench):
    bench.run()
    new = bench.folder / "elsewhere"
    bench.out.rename(new)
    bench.out = new
    assert bench.run() == "done before"


@pytest.mark.parametrize("exit_code", [130, 75])
def test_a_stopped_child_stops_the_pipeline(exit_code):
    with pytest.raises(KeyboardInterrupt):
        run_child([sys.executable, "-c", f"import sys; sys.exit({exit_code})"], {}, lambda line, quiet: None)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_reaches_the_child_and_ends_the_pipeline(tmp_path, name, monkeypatch):
    script, heard = tmp_path / "child.py", tmp_path / "heard"
    script.write_text(
        "import os, pathlib, signal, sys, time\n"
        "def leave(number, frame):\n"
        f"    pathlib.Path({str(heard)!r}).touch()\n"
        "    sys.exit(9)\n"
        f"signal.signal(signal.{name}, leave)\n"
        f"os.kill(os.getppid(), signal.{name})\n"
        "time.sleep(30)\n"
    )
    before = signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_child([sys.executable, script], {}, lambda line, quiet: None)
    finally:
        signal.signal(getattr(signal, name), before)
    assert heard.exists()


def test_an_ignored_signal_ends_neither_the_pipeline_nor_its_child():
    code = "import os, signal; os.kill(os.getppid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGHUP)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_child([sys.executable, "-c", code], {}, lambda line, quiet: None) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_under_nohup_torchrun_is_told_to_leave_sighup_alone():
    from vecset.pipeline.launching import launcher_signals

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        told = launcher_signals()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert launcher_signals() == {} and "SIGHUP" not in "".join(told.values()) and len(told) == 2
    finally:
        signal.signal(signal.SIGHUP, before)


def test_listing_sees_a_rewritten_file_and_contents_does_not_mind_an_equal_one(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("case_id,file\n")
    before = listing([path], tmp_path), contents([path], tmp_path)
    os.utime(path, ns=(1, 1))
    assert listing([path], tmp_path) != before[0]
    assert contents([path], tmp_path) == before[1]
    assert set(before[0]) == {"a.csv"}
