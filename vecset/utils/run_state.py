"""How far a run folder is, from the JSON sidecar of its last checkpoint. Standard library only.

    python vecset/utils/run_state.py RUN position     "epoch 12, step 3", or "no checkpoint"
    python vecset/utils/run_state.py RUN state        running, stopped, finished, or none
"""

import json
import sys
from pathlib import Path


def run_state(folder):
    """(position, state) of a run folder, as the batch script compares them between two starts."""
    sidecar = Path(folder) / "checkpoint-last.json"
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        return f"epoch {facts['epoch']}, step {facts['step']}", str(facts["status"])
    except (OSError, ValueError, KeyError):
        return "no checkpoint", "none"


if __name__ == "__main__":
    print(run_state(sys.argv[1])[("position", "state").index(sys.argv[2])])
