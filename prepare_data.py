#!/usr/bin/env python3
"""Label maps -> case files. Its flags: `python prepare_data.py --help`."""

import sys

from vecset.commands.prepare_data import main
from vecset.common.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
