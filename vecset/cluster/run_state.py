"""The progress of a training run, from the JSON sidecar of its last checkpoint and status.json. Standard library only.

python -m vecset.cluster.run_state RUN position     "epoch 12, step 3", or "no checkpoint"
python -m vecset.cluster.run_state RUN state        running, stopped, finished, or none
python -m vecset.cluster.run_state RUN how          how the last start ended: the same words, or "not finite"
"""

import argparse
import json
import sys
from pathlib import Path


def run_state(folder: Path) -> tuple[str, str]:
    """(position, state) of a run folder. The batch script compares the position before and after a start."""
    sidecar = Path(folder) / "checkpoint-last.json"
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        return f"epoch {facts['epoch']}, step {facts['step']}", str(facts["status"])
    except FileNotFoundError:
        return "no checkpoint", "none"
    except (OSError, ValueError, KeyError) as error:
        _tell(sidecar, error)
        return "no checkpoint", "none"


def last_status(folder: Path) -> str:
    """What the last start wrote about itself: 'running' where it was killed or crashed."""
    status = Path(folder) / "status.json"
    try:
        return str(json.loads(status.read_text(encoding="utf-8"))["status"])
    except FileNotFoundError:
        return "none"
    except (OSError, ValueError, KeyError) as error:
        _tell(status, error)
        return "none"


def _tell(path, error):
    print(f"note: {path} cannot be read ({type(error).__name__}: {error}): taken as none", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    about = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser("run_state.py", description=about, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("question", choices=("position", "state", "how"), help="what to print")
    args = parser.parse_args(argv)
    position, state = run_state(args.folder)
    print({"position": position, "state": state, "how": last_status(args.folder)}[args.question])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
