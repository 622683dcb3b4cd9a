import json
import os
import pickle
import signal
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from vecset.common.atomic import remove_leftovers
from vecset.common.errors import InputError
from vecset.models.autoencoder import EXTENSIONS, build_model
from vecset.weights.checkpoint import copy_checkpoint, load_checkpoint, model_from_checkpoint, save_checkpoint

CONFIG = {"name": "learnable_vec4x2_dim8_depth1_nb", "num_classes": 3, "anchors": False}


def checkpoint(number=0, payload=0):
    torch.manual_seed(number)
    return {
        "model": build_model(**CONFIG).state_dict(),
        "model_config": CONFIG,
        "class_names": ["a", "b", "c"],
        "optimizer": {"payload": torch.full((payload,), float(number))},
        "random_state": torch.get_rng_state(),
        "epoch": number,
        "step": 2,
        "args": {"lr": 1e-3},
        "best_metric": None,
    }


def test_a_checkpoint_alone_makes_the_model(tmp_path):
    path = tmp_path / "checkpoint-last.pth"
    torch.manual_seed(3)
    model = build_model(**CONFIG)
    save_checkpoint(path, {**checkpoint(), "model": model.state_dict()})
    again = model_from_checkpoint(load_checkpoint(path, num_classes=3))
    assert not again.training
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items()):
        assert torch.equal(a, b), name
    sidecar = json.loads((tmp_path / "checkpoint-last.json").read_text())
    assert sidecar["epoch"] == 0 and sidecar["model_config"] == CONFIG and "model" not in sidecar
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-last.json", "checkpoint-last.pth"]


def test_a_checkpoint_from_before_an_option_existed_did_not_use_it(tmp_path):
    save_checkpoint(tmp_path / "x.pth", checkpoint())
    assert load_checkpoint(tmp_path / "x.pth")["model_config"] == {**CONFIG, **EXTENSIONS}


def test_renamed_options_are_stored_under_their_first_keys_and_read_by_their_names(tmp_path):
    path = tmp_path / "x.pth"
    options = {"fps_class_gap": 2.0, "fps_density": "2:3"}
    config = {"name": "point_vec8x4_dim32_depth1_nb", "num_classes": 3, **options}
    save_checkpoint(path, {**checkpoint(), "model_config": config, "args": {"lr": 1e-3, **options}})
    stored = {"class_gap": 2.0, "latent_density": "2:3"}
    for raw in (torch.load(path, weights_only=True), json.loads(path.with_suffix(".json").read_text())):
        for part in ("model_config", "args"):
            assert stored.items() <= raw[part].items() and not options.keys() & raw[part].keys()
    loaded = load_checkpoint(path)
    assert loaded["model_config"] == {**EXTENSIONS, **config} and loaded["args"] == {"lr": 1e-3, **options}


def test_best_stays_when_last_goes_on(tmp_path):
    last, best = tmp_path / "checkpoint-last.pth", tmp_path / "checkpoint-best.pth"
    save_checkpoint(last, checkpoint(1))
    copy_checkpoint(last, best)
    save_checkpoint(last, checkpoint(2))
    assert (load_checkpoint(best)["epoch"], load_checkpoint(last)["epoch"]) == (1, 2)
    assert json.loads(best.with_suffix(".json").read_text())["epoch"] == 1


TEXTS = [
    b"root:x:0:0:root:/root:/bin/bash\n",
    b"c\na\nb\n.",
    b"I12x\n.",
    b"t.",
    b"s.",
    b"]e.",
    b"h\xff.",
    b"\x80\x02}q\x00R.",
]


@pytest.mark.parametrize(
    "content", [*TEXTS, *(bytes(np.random.default_rng(n).integers(0, 256, 60).tolist()) for n in range(200))]
)
def test_bytes_that_unpicklers_stumble_over_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match="not a checkpoint, or truncated"):
        load_checkpoint(tmp_path / "x.pth")


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(path)
    with pytest.raises(InputError, match="a folder"):
        load_checkpoint(tmp_path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint, or truncated|torch cannot read this checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, checkpoint(0, payload=10000))
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a checkpoint, or truncated|torch cannot read this checkpoint"):
            load_checkpoint(path)
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    with pytest.raises(InputError, match="not a checkpoint, or truncated"):  # a zip, but none of torch
        load_checkpoint(path.with_suffix(".npz"))
    torch.save({"model": {}}, path)
    with pytest.raises(InputError, match="vecsetx-heart checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, checkpoint())
    with pytest.raises(InputError, match="a checkpoint of 10 classes, found one of 3"):
        load_checkpoint(path, num_classes=10)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "vecsetx-heart checkpoint/1", "args": RunsCode()}, "x.pth")
    with pytest.raises(InputError):
        load_checkpoint("x.pth")
    (tmp_path / "y.pth").write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(InputError):
        load_checkpoint("y.pth")
    assert not (tmp_path / "it-ran").exists()
    save_checkpoint("z.pth", checkpoint())
    torch.save({**torch.load("z.pth", weights_only=True), "args": Namespace(lr=1)}, "z.pth")
    assert load_checkpoint("z.pth")["args"] == {"lr": 1}  # the one class that is let in


FULL_DISK = """
# a limit on the size of files stands in for the full disk: the write fails half way
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
from vecset.common.errors import run_command
from vecset.weights.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(run_command(lambda argv: save_checkpoint(sys.argv[2], {"model": torch.zeros(100_000)})))
"""


def test_no_space_left_is_one_line_and_keeps_the_old_file(tmp_path, repository):
    path = tmp_path / "checkpoint-last.pth"
    save_checkpoint(path, checkpoint(1))
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(repository), str(path)], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1, run.stderr
    assert load_checkpoint(path)["epoch"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-last.json", "checkpoint-last.pth"]


NURSERY = """
# forks savers and kills them; a process of its own, because a fork of pytest's could inherit a lock that a thread holds
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)  # a child cannot use the threads of its parent: it would wait for them for ever
from vecset.weights.checkpoint import save_checkpoint
path, rng, duration = sys.argv[2], random.Random(0), 0.0
state, payload = torch.load(sys.argv[3], weights_only=True), torch.zeros(2_000_000)
for line in sys.stdin:
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            for number in range(int(line), int(line) + 1000):
                payload.fill_(number)
                os.write(theirs, b"s")
                save_checkpoint(path, {**state, "epoch": number, "optimizer": {"payload": payload}})
        finally:
            os._exit(1)
    os.close(theirs)
    for _ in range(rng.randint(1, 3)):
        began = time.monotonic()
        assert os.read(ours, 1) == b"s"
        duration = max(duration / 2, time.monotonic() - began)  # of the save before this one, as fast as it is now
    time.sleep(rng.uniform(0, 0.7) * duration)
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
    os.close(ours)
"""


def test_kill_while_saving_leaves_a_whole_checkpoint(tmp_path, repository):
    """30 SIGKILLs at random moments of a save, the first, second or third one of its process."""
    path = tmp_path / "checkpoint-last.pth"
    torch.save(checkpoint(0), tmp_path / "state.pt")
    save_checkpoint(path, {**checkpoint(0), "optimizer": {"payload": torch.zeros(10)}})
    leftovers = newest = 0
    words = [sys.executable, "-c", NURSERY, str(repository), str(path), str(tmp_path / "state.pt")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        for _ in range(30):
            nursery.stdin.write(f"{newest + 1}\n")
            nursery.stdin.flush()
            assert nursery.stdout.readline().strip() == str(int(signal.SIGKILL))
            loaded = load_checkpoint(path)
            assert loaded["epoch"] >= newest
            newest = loaded["epoch"]
            assert (loaded["optimizer"]["payload"] == newest).all()
            leftovers += remove_leftovers(tmp_path)
        nursery.stdin.close()
    assert leftovers >= 10, f"only {leftovers} kills came while a file was being written: the test shows little"
    assert newest > 10


def test_weights_of_another_network_are_refused_in_one_line(tmp_path):
    config = {"name": "learnable_vec8x4_dim32_depth1_nb", "num_classes": 3}
    weights = build_model(**config).state_dict()
    assert not model_from_checkpoint({"model_config": config, "model": weights}).training
    del weights["known_classes"]
    with pytest.raises(InputError, match="old.pth.*known_classes") as caught:
        model_from_checkpoint({"model_config": config, "model": weights}, where=tmp_path / "old.pth")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no_such_option"):
        model_from_checkpoint({"model_config": {**config, "no_such_option": 1}, "model": weights})
