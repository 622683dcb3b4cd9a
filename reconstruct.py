#!/usr/bin/env python3
"""Checkpoint and hearts -> label maps, meshes, figures, pages. Its flags: `python reconstruct.py --help`."""

import sys

from vecset.commands.reconstruct import main
from vecset.common.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
