"""Natural order of names: heart_2 before heart_10."""

import re


def natural_key(name: str) -> tuple:
    """Sort key in which runs of digits are numbers; the name itself decides between equals ('01' and '1')."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.split(r"([0-9]+)", name) if part
    ], name
