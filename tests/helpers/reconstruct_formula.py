"""reconstruct.py in its own process, with the formula of helpers.formula_hearts in place of the checkpoint's model:

python reconstruct_formula.py WORKDIR [options of reconstruct.py]
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.formula_hearts import centred_ball, run  # noqa: E402
from vecset.weights import checkpoint  # noqa: E402

if __name__ == "__main__":
    checkpoint.model_from_checkpoint = lambda saved, device, where: centred_ball().to(device)
    sys.exit(run(Path(sys.argv[1]), *sys.argv[2:]))
