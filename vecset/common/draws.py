"""Random draws that depend on what they are for, and on nothing else.

A stream is seeded by (seed, epoch, case, purpose). Whichever rank or worker makes the draw, in whatever order and after
whatever stop, it is the same draw; two purposes never share numbers.
"""

import hashlib

import numpy as np


def stable_seed(*key):
    """128 bits from the key's parts (numbers and strings), the same in every process and Python version."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def random_stream(seed, epoch, case_id, purpose):
    """A numpy Generator (counter-based Philox: made in microseconds) for one purpose in one case and epoch."""
    return np.random.Generator(np.random.Philox(key=stable_seed(seed, epoch, case_id, purpose)))


def draw_rows(rng, available, wanted):
    """`wanted` of the row numbers 0..available-1 without repeats; where there are too few, all of them as often as they
    fit and the rest drawn, so that counts differ by one at most."""
    if available < 1:
        raise ValueError("no rows to draw from")
    full, rest = divmod(wanted, available)
    drawn = rng.choice(available, rest, replace=False, shuffle=False)
    return drawn if not full else np.concatenate([np.tile(np.arange(available), full), drawn])


def class_shares(counts, balance):
    """(K,) share of the draw for each class with `counts` (K,) rows: its share in the file for balance 0, equal shares
    among the present classes for balance 1, mixed between."""
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    return (1 - balance) * counts / counts.sum() + balance * present / present.sum()


def draw_balanced_rows(rng, rows_by_class, wanted, balance):
    """`wanted` row numbers, class k giving its share of `class_shares` (largest remainders). `rows_by_class`: one array
    of row numbers per class, some of them empty."""
    quota = class_shares([len(rows) for rows in rows_by_class], balance) * wanted
    number = np.floor(quota).astype(int)
    number[np.argsort(number - quota, kind="stable")[: wanted - number.sum()]] += 1
    return np.concatenate([rows[draw_rows(rng, len(rows), n)] for rows, n in zip(rows_by_class, number) if n])
