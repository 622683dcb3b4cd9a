#!/usr/bin/env python
"""Hearts to latents and back: label maps, meshes and figures. Flags and outputs: vecset/commands/reconstruct.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from vecset.commands.reconstruct import main
from vecset.common.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
