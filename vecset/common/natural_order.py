"""The order in which people count: heart_2 before heart_10."""

import re


def natural_key(name):
    """Sort key that takes runs of digits as numbers; the name itself decides between equals ('01' and '1')."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.split(r"([0-9]+)", name) if part
    ], name
