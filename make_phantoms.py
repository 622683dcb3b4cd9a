#!/usr/bin/env python3
"""Synthetic hearts -> label maps. Its flags: `python make_phantoms.py --help`."""

import sys

from vecset.commands.make_phantoms import main
from vecset.common.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
