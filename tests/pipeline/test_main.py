"""The main job with stages of a few lines: what --redo asks for is done once, also where the job is stopped."""

import json
import signal
from types import SimpleNamespace

import pytest

from vecset.pipeline import main
from vecset.pipeline.stages import Stage, listing


class Job:
    """Two stages: `prepare` writes a file, `train` depends on it by time and continues its own steps when stopped."""

    def __init__(self, folder):
        self.out = folder
        self.args = SimpleNamespace(input_dir=None)
        self.made, self.log = folder / "case.npz", folder / "steps.txt"
        self.ran, self.stop_train = [], False

    def say(self, line, quiet=False):
        pass

    def prepare(self):
        self.ran.append("prepare")
        self.made.unlink(missing_ok=True)
        self.made.write_text("x" * len(self.ran))  # another size each time, so that training sees a change

    def train(self):
        self.ran.append("train")
        with self.log.open("a") as handle:
            handle.write("x")
        if self.stop_train:
            raise KeyboardInterrupt

    def stages(self):
        def move_aside(old, wanted, whole):
            self.ran.append("aside")
            self.log.unlink(missing_ok=True)

        def stage(name, work, output, **rest):
            return Stage(name, name, 1, options=dict, outputs=lambda: [output], work=work, **rest)

        return [
            stage("prepare", self.prepare, self.made, inputs=dict),
            stage("train", self.train, self.log, inputs=lambda: listing([self.made], self.out), put_away=move_aside),
        ]

    def run(self, redo=(), stopped=False):
        """The stages that ran, in order; "aside" where the earlier training was put away."""
        self.ran, self.stop_train = [], stopped
        if stopped:
            with pytest.raises(KeyboardInterrupt):
                main.run(self, frozenset(redo))
        else:
            assert main.run(self, frozenset(redo)) == 0
        return self.ran


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "closing_lines", lambda pipeline, shown: [])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield Job(tmp_path)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_same_redo_after_a_stop_continues_and_a_finished_one_starts_again(job, tmp_path):
    job.run()
    assert job.run(["prepare"], stopped=True) == ["prepare", "aside", "train"]
    assert json.loads((tmp_path / "stages" / "redo.json").read_text()) == {"asked": ["prepare"], "left": []}
    assert job.run(["prepare"]) == ["train"] and job.log.read_text() == "xx"
    assert not (tmp_path / "stages" / "redo.json").exists()
    assert job.run(["prepare"]) == ["prepare", "aside", "train"], "that request was done"


def test_a_redo_of_two_stages_stopped_in_the_second_continues_there(job):
    job.run()
    assert job.run(["train", "prepare"], stopped=True) == ["prepare", "aside", "train"]
    assert job.run(["prepare", "train"]) == ["train"]


def test_another_redo_after_a_stop_is_a_new_request(job):
    job.run()
    job.run(["prepare"], stopped=True)
    assert job.run(["train"]) == ["aside", "train"]
    assert job.run() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--label", "values.json"], "unrecognized arguments: --label values.json; did you mean --label_mapping?"),
        (["--", "--epoch", "5"], "unrecognized arguments: --epoch 5; did you mean --epochs?"),
        (["--prepare_options", "--annot 1"], "unrecognized arguments: --annot 1; did you mean --annotated?"),
    ],
)
def test_the_beginning_of_an_option_is_not_taken_for_it(words, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["--output_dir", str(tmp_path / "out"), *words])
    assert end.value.code == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
