"""How far a run folder is, from the JSON sidecar of its last checkpoint and status.json. Standard library only.

python vecset/cluster/run_state.py RUN position     "epoch 12, step 3", or "no checkpoint"
python vecset/cluster/run_state.py RUN state        running, stopped, finished, or none
python vecset/cluster/run_state.py RUN how          how the last start ended: the same words, or "not finite"
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


def last_status(folder):
    """What the last start wrote of itself: 'running' where it was killed or broke off."""
    try:
        return str(json.loads((Path(folder) / "status.json").read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError):
        return "none"


if __name__ == "__main__":
    folder, question = sys.argv[1:]
    print(last_status(folder) if question == "how" else run_state(folder)[("position", "state").index(question)])
