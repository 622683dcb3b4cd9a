"""What the batch script knows of a run: from the sidecar alone."""

import json

from vecset.utils.run_state import run_state


def test_position_and_state_come_from_the_sidecar(tmp_path):
    assert run_state(tmp_path) == ("no checkpoint", "none")
    (tmp_path / "checkpoint-last.json").write_text(json.dumps({"epoch": 12, "step": 3, "status": "stopped"}))
    assert run_state(tmp_path) == ("epoch 12, step 3", "stopped")
    (tmp_path / "checkpoint-last.json").write_text("{half")
    assert run_state(tmp_path) == ("no checkpoint", "none")
