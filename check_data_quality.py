#!/usr/bin/env python3
"""Case files -> a verdict on their quality. Its flags: `python check_data_quality.py --help`."""

import sys

from vecset.commands.check_data_quality import main
from vecset.common.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main, resumes=False))
