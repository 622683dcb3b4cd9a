"""One heart to its result: encoded, decoded, written as files, scored."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vecset.data.case_file import Case
from vecset.inference.claims import count_claims
from vecset.inference.decoding import Decoded, decode_label_map, require_grid_memory
from vecset.inference.heart_field import HeartField
from vecset.inference.heart_files import write_labels, write_meshes
from vecset.inference.latent_codes import PackedLatents, pack_latents
from vecset.inference.latents import FILE, write_latents
from vecset.inference.meshes import require_mesh_memory
from vecset.inference.model import LoadedModel
from vecset.inference.settings import OutputSettings
from vecset.metrics.overlap import score
from vecset.metrics.resampling_limit import labels_of_own_field


@dataclass(frozen=True)
class DecodedHeart:
    """latents: (1, M, L), what was decoded; packed: the same in fewer bits, where they are saved so; output: the label
    map on the grid that is written; on_source: on the truth's grid, None where there is no truth."""

    case_id: str
    case: Case
    latents: torch.Tensor
    field: HeartField
    output: Decoded
    on_source: Decoded | None
    packed: PackedLatents | None = None


def make_result(
    model: LoadedModel,
    settings: OutputSettings,
    case_id: str,
    case: Case,
    latents: torch.Tensor | None,
    open_folder: Callable[[], Path],
    chunk: int,
    say: Callable[[str], None],
) -> dict:
    """Encodes a heart (where there are no `latents` (1, M, L) yet), decodes, writes and scores it.

    open_folder: gives the folder to write into; called once the heart is decoded. say: takes a line of text where
    coarse to fine was not safe. Returns files (names), scores and floor (rows of vecset/metrics/overlap.py, none
    without a truth; floor: the resampling limit), decoding (counts and seconds; claims: `count_claims` on the grid that
    is written, of networks with class distances), and latents_file where they are saved: latents, numbers of each,
    bits_per_number (with all that is needed to have them back) and bytes of the file."""
    start = time.time()
    with ThreadPoolExecutor(1) as beside:  # the limit needs no model: it is found while the heart is decoded
        limit = None
        if case.truth_crop is not None:
            limit = beside.submit(lambda: score_against(case, case.truth_crop, labels_of_own_field(case)))
        heart = decode_heart(model, settings, case_id, case, latents, chunk, say)
        folder = open_folder()
        files = write_heart(folder, model, settings, heart)
        if heart.field.fallbacks > heart.output.dense:
            say(
                f"{case_id}: the grid of its meshes or figures was decoded point by point, too: coarse to fine "
                "was not safe, or no gain"
            )
        scores = score_against(case, case.truth_labels(), heart.on_source.labels) if heart.on_source else []
        decoded = heart.output
        frame = case.frame.with_spacing(settings.spacing_mm) if settings.spacing_mm else case.frame
        claims = count_claims(heart.field, frame, decoded.labels, seed=model.seed)
        return {
            "files": files,
            "scores": scores,
            "floor": limit.result() if limit else [],
            "decoding": {
                "queries": decoded.queries,
                "voxels": decoded.voxels,
                "skipped": decoded.skipped,
                "checked": decoded.checked,
                "missed": decoded.missed,
                "dense": decoded.dense,
                "fallbacks": heart.field.fallbacks,
                **({"claims": claims} if claims else {}),
                "seconds": round(time.time() - start, 2),
            },
            **({"latents_file": _told_of_latents(heart, folder / FILE)} if settings.latents else {}),
        }


def _told_of_latents(heart, path):
    _, count, numbers = heart.latents.shape
    return {
        "latents": count,
        "numbers": numbers,
        "bits_per_number": round(heart.packed.bits_per_number, 2) if heart.packed else 32,
        "bytes": path.stat().st_size,
    }


def decode_heart(
    model: LoadedModel,
    settings: OutputSettings,
    case_id: str,
    case: Case,
    latents: torch.Tensor | None,
    chunk: int,
    say: Callable[[str], None],
) -> DecodedHeart:
    """Encodes where needed, and decodes the label maps on the grids that are written and scored; as `make_result`.
    InputError where those grids, or that of the meshes, are too large for the memory that is free."""
    frame = case.frame.with_spacing(settings.spacing_mm) if settings.spacing_mm else case.frame
    require_grid_memory(frame)
    if settings.meshes:
        require_mesh_memory(settings.mesh_cells)
    latents = model.encode(case, case_id) if latents is None else latents
    packed = None
    if settings.latents and settings.latent_bits < 32:  # the figures of this run are to be those of the file
        packed = pack_latents(latents[0].float().cpu().numpy(), settings.latent_bits, model.latents_have_places)
        latents = torch.from_numpy(packed.latents_ML)[None].to(latents.device)
    field = model.field(latents, chunk)
    output, on_source = decode_label_map(field, frame, seed=model.seed), None
    if output.dense:
        why = (
            f"{output.missed} of {output.checked} voxels checked differ from the coarse-to-fine label map"
            if output.missed
            else f"coarse to fine leaves only {output.skipped} of {output.voxels} voxels alone"
        )
        say(f"{case_id}: {why}; decoded voxel by voxel instead")
    if case.truth_crop is not None:
        on_source = decode_label_map(field, case.frame, seed=model.seed) if settings.spacing_mm else output
    return DecodedHeart(case_id, case, latents, field, output, on_source, packed)


def write_heart(folder: Path, model: LoadedModel, settings: OutputSettings, heart: DecodedHeart) -> list[str]:
    """Writes label map, latents where `settings` says so, and meshes into `folder`; returns the files' names."""
    frame, geometry = heart.case.frame, heart.case.meta.get("source_geometry")
    if settings.spacing_mm:
        frame, geometry = frame.with_spacing(settings.spacing_mm), None
    files = write_labels(folder, heart.output.labels, frame, model.class_names, geometry)
    if settings.latents:
        latents = heart.packed or heart.latents[0].float().cpu().numpy()
        write_latents(folder / FILE, latents, heart.case, heart.case_id, model.class_names, model.checkpoint_sha256)
        files.append(FILE)
    return files + write_meshes(folder, heart.field, heart.case.frame, model.class_names, settings)


def score_against(case: Case, truth: np.ndarray, prediction: np.ndarray) -> list[dict]:
    """Rows of `vecset.metrics.overlap.score` in mm, with the classes and the spacing of `case`."""
    return score(truth, prediction, case.class_names, case.annotated, case.frame.spacing_mm)
