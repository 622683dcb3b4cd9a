#!/usr/bin/env python3
"""Case files -> train.csv, val.csv, folds and test set. Its flags: `python create_csv.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also where Python leaves this folder out (-P, -I)

from vecset.commands.create_csv import main
from vecset.common.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
