#!/usr/bin/env python3
"""Case files -> train.csv, val.csv, folds and test set. Its flags: `python create_csv.py --help`."""

import sys

from vecset.commands.create_csv import main
from vecset.common.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
