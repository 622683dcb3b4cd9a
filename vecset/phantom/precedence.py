"""Which structure a point of a synthetic heart lies in, from its fields: the order of precedence where bodies overlap.

`fields` hold at index c the field of class c at one point, in mm, negative inside (field.py): (11,) of a heart of ten
structures, (16,) of one of sixteen. The sixteen are the ten of `label_of`, and what `beyond_of` adds to them: the venae
cavae and the coronary sinus in the background, and the walls of the right ventricle and of the left atrium.

A wall of t mm is all background within t of the smooth outside of the heart where the pool (the inside of the chamber)
is the nearest structure. Where another structure leaves less room than that, the pool shrinks: what lies within t of
that structure is wall. There is none where the pool opens into another (RV: RA, PA; LA: LV, PV, LAA), nor where it lies
on the left ventricle's muscle. A coronary lies in a groove of the wall, with t / 2 of wall between it and the pool.
"""

from vecset.common.compiled import njit

MYO, LA, LV, RA, RV, AORTA, PA, LAA, CORONARY, PV, SVC, IVC, RV_WALL, LA_WALL, SINUS = range(1, 16)
FIELDS_10, FIELDS_16 = (
    11,
    16,
)  # fields of a heart of ten structures and of one of sixteen, whose last class is never drawn
FILLET_MM = 5.0  # bodies nearer to each other than about half of this are joined
SLEEVE_MM = 3.5  # how deep in the back of the left atrium the veins begin
FAR_MM = 1e3
FAT_MM = 0.8  # round a coronary, where it lies in a groove of a wall
GROOVE_MM = 0.6  # how deep that groove reaches: this far from the pool
CORONARY_REACH_MM = 3.0  # more than FAT_MM and half of the thickest wall


@njit
def union_of(f):
    """Smooth union of all structures but the coronaries: crevices narrower than about FILLET_MM / 2 are filled."""
    total = f[MYO]
    for c in range(2, 11):
        if c == CORONARY or f[c] >= FAR_MM:
            continue
        h = max(FILLET_MM - abs(total - f[c]), 0.0)
        total = min(total, f[c]) - 0.25 * h * h / FILLET_MM
    return total


@njit
def label_of(f):
    """The class at a point from its fields (11,): the order of precedence where bodies overlap."""
    if f[CORONARY] < 0.0:
        return CORONARY
    if f[AORTA] < 0.0:
        return AORTA
    if f[LV] < 0.0:
        return LV
    if f[MYO] < 0.0:
        return MYO
    if f[PA] < 0.0:
        return PA
    if f[RV] < 0.0:
        return RV
    if f[LA] < -SLEEVE_MM and f[LA] <= f[RA]:
        return LA
    if f[RA] < -SLEEVE_MM and f[RA] < f[LA]:
        return RA
    if f[PV] < 0.0:
        return PV
    if f[LA] < 0.0 or f[RA] < 0.0:
        return LA if f[LA] <= f[RA] else RA
    if f[LAA] < 0.0:
        return LAA
    if union_of(f) < 0.0:  # the fillet goes to the nearest
        best = LV  # blood before muscle where both are equally near
        for c in range(1, 11):
            if c != CORONARY and f[c] < f[best] - 1e-4:
                best = c
        return best
    return 0


@njit
def beyond_of(f, label, rv_wall_mm, la_wall_mm):
    """The class 11..15 at a point from its fields (16,), where one takes the place of `label`, its class among the ten
    (0 outside); else 0. `rv_wall_mm`, `la_wall_mm`: the walls' thickness."""
    if label == 0:
        if f[SVC] < 0.0:
            return SVC
        if f[IVC] < 0.0:
            return IVC
        if f[SINUS] < 0.0:
            return SINUS
        height = union_of(f)
        if height >= max(rv_wall_mm, la_wall_mm) or (height > GROOVE_MM and f[CORONARY] < FAT_MM):
            return 0
        nearest = RV if f[RV] < f[LA] else LA
        for c in range(1, FIELDS_10):
            if c != CORONARY and f[c] < f[nearest]:
                return 0
        if nearest == RV:
            return RV_WALL if height < rv_wall_mm else 0
        return LA_WALL if height < la_wall_mm else 0
    if label == RV:  # of LA, LAA and PV only what the RV leaves of them, as it comes before them
        other = min(f[AORTA], max(min(f[LA], f[LAA], f[PV]), -f[RV]))
        if min(other, f[CORONARY] + 0.5 * rv_wall_mm) < min(rv_wall_mm, f[RA], f[PA]):
            return RV_WALL
    if label == LA:  # the RA begins where both fields are equal: half of their difference away
        other = min(f[AORTA], f[PA], f[RV], 0.5 * (f[RA] - f[LA]), f[SVC], f[IVC], f[SINUS])
        if min(other, f[CORONARY] + 0.5 * la_wall_mm) < min(la_wall_mm, f[LV], f[PV], f[LAA]):
            return LA_WALL
    return 0
