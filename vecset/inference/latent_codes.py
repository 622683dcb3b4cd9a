"""Latents in few bits per number: what `reconstruct.py --latents` stores, and what is decoded from it.

Each column of the latents (M, L), a number of the code or a coordinate of the place, is cut into equal steps between
its least and its largest number over the heart's latents. A column of b bits has 2^b values, so no number moves by more
than half a step (and float32's own rounding). Zeros stay zeros: the latents of a structure that is absent may be zeros.
The rows keep their order, which some networks need.

The bits are dealt out by what a field loses. A label map hardly changes where a code moves by 1/128 of its range, but
places in 8 bits move by up to 0.3 mm, and vessels with them. So the three coordinates of a place get 12 bits (at most
0.02 mm off) and the numbers of the code what is left: at 8 bits per number, with the columns' least values and steps
counted in, 6 or 7. Figures: benchmarks/RESULTS.md.

The last rows of some networks are no latents (vecset/models/proposed_distances.py). They stay as they are, in float32,
beside the bits of the others.
"""

from dataclasses import dataclass, field

import numpy as np

from vecset.common.errors import InputError

BITS = (8, 16, 32)  # per number, on average; 32: float32 as it is
DEFAULT_BITS = 8
PLACE_NUMBERS = 3  # the last of a latent that has a place (vecset/models/joint_network.py, `encode`)
PLACE_BITS = 12
_LEAST_BITS, _MOST_BITS = 4, 16


@dataclass(frozen=True)
class PackedLatents:
    """M latents of L numbers: number j of a latent is its least value + its step * its code.

    codes_MR      u8: a latent per row, the codes one after the other without gaps, highest bit first, zeros at the end
    columns_3L    float32: bits (1 to 16), least value and step of each number
    rest_SL       float32: S rows behind the M, as they are
    """

    codes_MR: np.ndarray
    columns_3L: np.ndarray
    rest_SL: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def latents_ML(self) -> np.ndarray:
        """The stored numbers (M + S, L), float32: the same on every machine."""
        _, low_L, step_L = self.columns_3L.astype(np.float64)
        codes_ML, bits_MS, end = np.empty((len(self.codes_MR), len(low_L))), np.unpackbits(self.codes_MR, axis=1), 0
        for j, bits in enumerate(_bits(self.columns_3L)):
            codes_ML[:, j], end = bits_MS[:, end : end + bits] @ _powers(bits), end + bits
        latents_ML = low_L + step_L * codes_ML
        # what float32's rounding of the least value leaves of a zero
        latents_ML = np.where(np.abs(latents_ML) < 1e-6 * np.abs(low_L), 0, latents_ML).astype(np.float32)
        return np.concatenate([latents_ML, self.rest_SL]) if len(self.rest_SL) else latents_ML

    @property
    def bits_per_number(self) -> float:
        """Of all that is needed to have the numbers back, the columns included."""
        stored = self.codes_MR.nbytes + self.columns_3L.nbytes + self.rest_SL.nbytes
        return 8 * stored / ((len(self.codes_MR) + len(self.rest_SL)) * self.columns_3L.shape[1])


def column_bits(count: int, numbers: int, bits: int, places: bool) -> np.ndarray:
    """(numbers,) u8: bits of each number of `count` latents, whole bytes per latent, such that all that is stored of
    them, the columns included, is at most `bits` per number. places: the last three numbers are a place. A number has 4
    bits at least, so a handful of latents, or latents of a few numbers, take more."""
    place = PLACE_NUMBERS if places and numbers >= PLACE_NUMBERS else 0
    code, of_place = numbers - place, max(PLACE_BITS, bits)
    columns = 3 * 32 * numbers / count  # their share in a latent
    left = int(bits * numbers - columns) // 8 * 8 - of_place * place
    base, more = divmod(max(left, _LEAST_BITS * code), max(code, 1))
    codes = [min(base + (j < more), bits) for j in range(code)]
    return np.array([*codes, *[of_place] * place], np.uint8)


def pack_latents(latents_ML: np.ndarray, bits: int, places: bool = False, rest: int = 0) -> PackedLatents:
    """latents_ML (M, L) in `bits` (8 or 16) per number. places: the last three numbers of each are its place. rest:
    so many of the last rows stay as they are. InputError where a number is not finite: it has no step."""
    latents_ML = np.asarray(latents_ML, np.float32)
    latents_ML, rest_SL = latents_ML[: len(latents_ML) - rest].astype(np.float64), latents_ML[len(latents_ML) - rest :]
    if not (np.isfinite(latents_ML).all() and np.isfinite(rest_SL).all()):
        raise InputError.because(
            "--latents", "the latents of this heart are not all finite numbers", "use a checkpoint whose latents are"
        )
    bits_L = column_bits(*latents_ML.shape, bits, places)
    most_L = 2.0**bits_L - 1
    # in float32, as stored: the codes are chosen for the steps that the reader has
    low_L, step_L = latents_ML.min(0), (np.ptp(latents_ML, 0) / most_L).astype(np.float32).astype(np.float64)
    wide_L = np.where(step_L > 0, step_L, 1)
    has_zero_L = (latents_ML == 0).any(0) & (step_L > 0)
    low_L = np.where(has_zero_L, step_L * np.rint(low_L / wide_L), low_L).astype(np.float32)
    codes_ML = np.clip(np.rint((latents_ML - low_L) / wide_L), 0, most_L).astype(np.int64)
    bits_MS = np.concatenate([(codes_ML[:, j, None] // _powers(b)) & 1 for j, b in enumerate(bits_L)], 1)
    columns_3L = np.stack([bits_L, low_L, step_L]).astype(np.float32)
    return PackedLatents(np.packbits(bits_MS.astype(np.uint8), axis=1), columns_3L, rest_SL)


def require_whole(packed: PackedLatents) -> None:
    """ValueError where the arrays of a file are not what `pack_latents` makes, or do not belong together."""
    codes_MR, columns_3L = packed.codes_MR, packed.columns_3L
    for name, array, kind in (("codes", codes_MR, np.uint8), ("columns", columns_3L, np.float32)):
        if array.ndim != 2 or array.dtype != kind or not array.size:
            raise ValueError(f"{name} {array.shape} of {array.dtype}")
    if len(columns_3L) != 3 or not np.isfinite(columns_3L).all() or (columns_3L[2] < 0).any():
        raise ValueError("columns that are not bits, least values and steps")
    rest_SL = packed.rest_SL
    if len(rest_SL) and (rest_SL.dtype != np.float32 or rest_SL.ndim != 2 or rest_SL.shape[1] != columns_3L.shape[1]):
        raise ValueError(f"rows behind the codes {rest_SL.shape} of {rest_SL.dtype}")
    bits_L = columns_3L[0]
    if ((bits_L < 1) | (bits_L > _MOST_BITS) | (bits_L % 1 != 0)).any():
        raise ValueError(f"codes of {bits_L.min():g} to {bits_L.max():g} bits")
    expected = -(-int(bits_L.sum()) // 8)
    if codes_MR.shape[1] != expected:
        raise ValueError(f"{codes_MR.shape[1]} bytes per latent, {expected} expected")


def _bits(columns_3L):
    return columns_3L[0].astype(int).tolist()


def _powers(bits):
    """2^(bits - 1), ..., 4, 2, 1."""
    return 1 << np.arange(int(bits) - 1, -1, -1)
