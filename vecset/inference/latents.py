"""The latents of one heart as a file: what a model needs to decode it again, and nothing else.

`latents.npz`: latents (M, L) f32, or in fewer bits latent_codes (M, R) u8 and latent_columns (3, L) f32
(latent_codes.py), and latent_rest (S, L) f32 where the network has rows that are no latents; class_names (C,) text;
frame_affine, frame_shape, frame_centre, frame_scale as in a case file; meta, JSON text: case_id, checkpoint_sha256
(another checkpoint cannot decode them), source_geometry, states (C,) of the classes (vecset/common/structure_state.py;
files of earlier versions lack them), and slices, of a heart that was seen in slices ({"planes": their number}; null or
not there: it was not).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vecset.common.atomic import atomic_path
from vecset.common.errors import InputError
from vecset.common.natural_order import natural_key
from vecset.common.npz_file import NPZ_ERRORS, in_one_line, member, open_npz, require_members_fit
from vecset.common.structure_state import State, is_seen
from vecset.data.case_file import Case
from vecset.imaging.frame import Frame
from vecset.inference.latent_codes import PackedLatents, require_whole

FILE = "latents.npz"
WHOLE = ("latents",)
PACKED = ("latent_codes", "latent_columns")
REST = "latent_rest"  # of PACKED, where there is one
_MEMBERS = ("class_names", "frame_affine", "frame_shape", "frame_centre", "frame_scale", "meta")


def write_latents(
    path: Path,
    latents: np.ndarray | PackedLatents,
    case: Case,
    case_id: str,
    class_names: Sequence[str],
    checkpoint_sha256: str,
) -> None:
    """Writes latents (M, L), as float32 or as they are packed, with frame and names, atomically."""
    frame = case.frame
    meta = {
        "case_id": case_id,
        "checkpoint_sha256": checkpoint_sha256,
        "source_geometry": case.meta.get("source_geometry"),
        "states": case.states.tolist() if case.has_states else None,
        **({"slices": case.meta["slices"]} if case.in_slices else {}),
    }
    if isinstance(latents, PackedLatents):
        members = dict(zip(PACKED, (latents.codes_MR, latents.columns_3L), strict=True))
        members |= {REST: latents.rest_SL} if len(latents.rest_SL) else {}
    else:
        members = {"latents": np.asarray(latents, np.float32)}
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(  # the text in it shrinks to a fifth, numbers hardly
            handle,
            **members,
            class_names=np.array(list(class_names)),
            frame_affine=frame.affine,
            frame_shape=np.array(frame.shape),
            frame_centre=frame.centre_mm,
            frame_scale=np.float64(frame.scale),
            meta=np.array(json.dumps(meta)),
        )


def read_latents(path: Path | str) -> tuple[np.ndarray, Case]:
    """(latents (M, L) f32, `Case` with frame and meta alone: class_names, source_geometry, case_id,
    checkpoint_sha256)."""
    return read_stored(path)[::2]


def read_stored(path: Path | str) -> tuple[np.ndarray, PackedLatents | None, Case]:
    """(latents (M, L) f32, the same as they are packed or None, `Case` as from `read_latents`). InputError where the
    file is none of latents, or damaged."""
    path = Path(path)
    try:
        with open_npz(path) as archive:
            form = PACKED if "latents" not in archive.files and "latent_codes" in archive.files else WHOLE
            missing = [name for name in (*form, *_MEMBERS) if name not in archive.files]
            if missing:
                raise InputError.because(
                    path,
                    f"not a file of latents: it lacks {', '.join(missing)}",
                    "make them with reconstruct.py --latents",
                )
            form += (REST,) * (form is PACKED and REST in archive.files)
            require_members_fit(archive, (*form, *_MEMBERS), path)
            stored = {name: member(archive, name) for name in (*form, *_MEMBERS)}
        packed = PackedLatents(*map(stored.get, form)) if form[0] in PACKED else None
        if packed:
            require_whole(packed)
        latents_ML = packed.latents_ML if packed else stored["latents"]
        if latents_ML.ndim != 2 or latents_ML.dtype.kind != "f" or not latents_ML.size:
            raise ValueError(f"latents {latents_ML.shape} of {latents_ML.dtype}")
        meta = json.loads(str(stored["meta"]))
        frame = Frame(
            stored["frame_affine"], stored["frame_shape"], stored["frame_centre"], float(stored["frame_scale"])
        )
    except FileNotFoundError:
        raise InputError.because(path, "no such file", "check --latents") from None
    except NPZ_ERRORS as error:
        raise InputError.because(path, f"not a file of latents ({in_one_line(error)})", "check --latents") from None
    names = [str(name) for name in stored["class_names"]]
    meta = {**meta, "classes": len(names), "class_names": names, **_classes_of(meta.get("states"), len(names))}
    return latents_ML, packed, Case(path=path, frame=frame, meta=meta)


def _classes_of(states, num_classes):
    """The lists of class ids in `meta` that stand for the states of a file, which an earlier version lacks: then it is
    not known which classes were there."""
    if not isinstance(states, list) or len(states) != num_classes:
        return {"annotated_classes": list(range(1, num_classes + 1))}
    seen = is_seen(np.array(states))
    return {
        "annotated_classes": [c for c, state in enumerate(states, 1) if state != State.UNKNOWN],
        "present_classes": [int(c) for c in np.flatnonzero(seen) + 1],
        "border_classes": [c for c, state in enumerate(states, 1) if state == State.CUT],
    }


def find_latents(source: Path | str) -> list[Path]:
    """The files of latents in `source`: the file itself, or those of a folder and of its hearts' folders."""
    source = Path(source)
    if source.is_dir():
        found = sorted({*source.glob("*.npz"), *source.glob(f"*/{FILE}")}, key=lambda p: natural_key(str(p)))
        found = [p for p in found if not p.name.startswith(".")]
        if not found:
            raise InputError.because(source, f"no files of latents in it ({FILE})", "check --latents")
        return found
    return [source]
