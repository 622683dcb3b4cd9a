"""Random streams that depend on their purpose alone.

A stream is seeded by (seed, epoch, case, purpose). A draw is the same in every rank and worker, in any order, and after
a restart; two purposes never share random numbers.
"""

import hashlib

import numpy as np


def stable_seed(*key: object) -> int:
    """A seed of 128 bits from numbers and strings, the same in every process and Python version."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def random_stream(seed: int, epoch: int, case_id: str, purpose: str) -> np.random.Generator:
    """The Generator for one purpose in one case and epoch (Philox, which is seeded in microseconds)."""
    return np.random.Generator(np.random.Philox(key=stable_seed(seed, epoch, case_id, purpose)))


def draw_rows(rng: np.random.Generator, available: int, wanted: int) -> np.ndarray:
    """(wanted,) row numbers out of 0..available-1, without repeats. Where there are too few, all are repeated, and the
    numbers of repeats differ by at most one. Raises ValueError where `available` is below 1."""
    if available < 1:
        raise ValueError("no rows to draw from")
    full, rest = divmod(wanted, available)
    drawn = rng.choice(available, rest, replace=False, shuffle=False)
    return drawn if not full else np.concatenate([np.tile(np.arange(available), full), drawn])


def class_shares(counts: np.ndarray, balance: float) -> np.ndarray:
    """(K,) f64 shares of a draw for classes with `counts` (K,) rows: in proportion to `counts` for balance 0, equal for
    all present classes for balance 1, a mixture of both between."""
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    return (1 - balance) * counts / counts.sum() + balance * present / present.sum()


def draw_balanced_rows(
    rng: np.random.Generator, rows_by_class: list[np.ndarray], wanted: int, balance: float
) -> np.ndarray:
    """(wanted,) row numbers; each class contributes its share of `class_shares`, rounded by largest remainders.
    `rows_by_class`: one array of row numbers per class, which may be empty."""
    quota = class_shares([len(rows) for rows in rows_by_class], balance) * wanted
    number = np.floor(quota).astype(int)
    number[np.argsort(number - quota, kind="stable")[: wanted - number.sum()]] += 1
    return np.concatenate([rows[draw_rows(rng, len(rows), n)] for rows, n in zip(rows_by_class, number) if n])
