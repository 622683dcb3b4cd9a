"""Natural order of names: heart_2 before heart_10."""

import re


def natural_key(name: str) -> tuple:
    """Sort key in which runs of the digits 0 to 9 are numbers; the name itself decides between equals ('01' and '1').

    Other signs that Python counts as digits (a circled one, superscripts, those of other scripts) are letters here.
    """
    return [_part(part) for part in re.split(r"([0-9]+)", name) if part], name


def _part(part):
    if part[0] not in "0123456789":
        return 1, 0, part.lower()
    digits = part.lstrip("0")
    return 0, len(digits), digits  # the order of the numbers, however many digits they have
