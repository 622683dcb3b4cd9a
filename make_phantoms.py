#!/usr/bin/env python3
"""Synthetic hearts -> label maps. Its flags: `python make_phantoms.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also where Python leaves this folder out (-P, -I)

from vecset.commands.make_phantoms import main
from vecset.common.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
