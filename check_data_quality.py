#!/usr/bin/env python3
"""Case files -> a verdict on their quality. Its flags: `python check_data_quality.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also where Python leaves this folder out (-P, -I)

from vecset.commands.check_data_quality import main
from vecset.common.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main, resumes=False))
