"""What is known of each structure of one heart: four states that no part of the software may take for one another."""

import enum
from collections.abc import Sequence

import numpy as np

# Unit. The signed distance to a class without voxels, at every point. The heart lies in a ball of radius 0.95, so that
# a class which is there is nearer than this to every surface point. In a corner of the unit cube it may be farther.
ABSENT_DISTANCE = 2.0


class State(enum.IntEnum):
    """The state of one class in one heart. The numbers are stored in batches and files, and never change."""

    GIVEN = 0  # seen: it has voxels
    ABSENT = 1  # looked for, and no voxel: anatomy, which must not be invented
    UNKNOWN = 2  # not annotated, or left out by the user: it may be inferred
    CUT = 3  # seen in part: it goes on beyond the field of view


STATE_WORDS = {State.GIVEN: "given", State.ABSENT: "absent", State.UNKNOWN: "unknown", State.CUT: "cut"}
SEEN = (State.GIVEN, State.CUT)  # of which something is seen


def states_of(
    present_C: Sequence[bool] | np.ndarray,
    annotated_C: Sequence[bool] | np.ndarray,
    cut_C: Sequence[bool] | np.ndarray | None = None,
) -> np.ndarray:
    """(C,) i8 array of `State`; channel c-1 is class c. present_C: (C,) bool, the class has a voxel; annotated_C: it
    was looked for; cut_C: the field of view truncates it (None: nothing is cut).

    A class with voxels is GIVEN, or CUT, whoever looked for it. One without is ABSENT where it was looked for, and
    UNKNOWN where it was not; that it is cut says nothing then. Raises ValueError where the lengths differ."""
    present = np.asarray(present_C, bool)
    annotated = np.asarray(annotated_C, bool)
    cut = np.zeros(present.shape, bool) if cut_C is None else np.asarray(cut_C, bool)
    if present.ndim != 1 or annotated.shape != present.shape or cut.shape != present.shape:
        raise ValueError(f"present {present.shape}, annotated {annotated.shape}, cut {cut.shape}: want (C,) each")
    without = np.where(annotated, State.ABSENT, State.UNKNOWN)
    return np.where(present, np.where(cut, State.CUT, State.GIVEN), without).astype(np.int8)


def is_seen(states_C: np.ndarray) -> np.ndarray:
    """(C,) bool: something of the class is seen (GIVEN or CUT)."""
    return np.isin(states_C, SEEN)
