"""What the batch script knows of a run: from the sidecar alone."""

import json

from vecset.cluster.run_state import last_status, run_state


def test_position_and_state_come_from_the_sidecar(tmp_path):
    assert run_state(tmp_path) == ("no checkpoint", "none")
    (tmp_path / "checkpoint-last.json").write_text(json.dumps({"epoch": 12, "step": 3, "status": "stopped"}))
    assert run_state(tmp_path) == ("epoch 12, step 3", "stopped")
    (tmp_path / "checkpoint-last.json").write_text("{half")
    assert run_state(tmp_path) == ("no checkpoint", "none")


def test_how_the_last_start_ended_comes_from_its_own_file(tmp_path):
    assert last_status(tmp_path) == "none"
    (tmp_path / "status.json").write_text(json.dumps({"status": "not finite", "epoch": 1}))
    assert last_status(tmp_path) == "not finite"
