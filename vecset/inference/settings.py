"""What decides the files of a reconstructed heart, and the fingerprint by which a finished one is recognised."""

import hashlib
import json
from dataclasses import dataclass

from vecset.fields.meshes import MESH_CELLS
from vecset.imaging.label_mapping import LabelMapping
from vecset.inference.latent_codes import DEFAULT_BITS
from vecset.inference.model import LoadedModel
from vecset.inference.refinement import NO_REFINEMENT, Refinement

VERSION = 10  # of the method: hearts that another version made are made again

REPAIR_VERSION = 2  # of vecset/inference/label_repair.py, likewise
REFINE_VERSION = 1  # of vecset/inference/refinement.py


@dataclass(frozen=True)
class OutputSettings:
    """What is written for each heart.

    meshes, mesh_cells, mesh_format, lps: whether there are any; grid cells along the edge of the unit cube; 'ply',
    'stl' or 'obj'; in LPS mm instead of RAS. spacing_mm: of the label map that is written, None for the source's grid.
    spacing_from, geometry_from: what of a contradictory header holds. latents: whether they are saved; latent_bits: in
    how many bits per number (latent_codes.BITS): then the heart is decoded from what is saved. label_mapping: which
    values of a label map are which class; annotated: ids of the input's own table, or names, of the classes that were
    looked for, None: as the input says; given: those that are shown to the model, the rest of the map is hidden from it
    and drawn all the same, None: all; complete: structures that are unknown are inferred and drawn; extend_mm: how far
    the grid goes beyond the image, on every side; slices: one of `vecset.sparse.slices.WAYS`, where the input shows
    planes, None: it shows all; samples: how many answers are given to what is not seen whole, 0: the one alone; repair:
    whether the input's label map is written mended, too; refine: how long latents are fitted to the heart."""

    meshes: bool = True
    mesh_cells: int = MESH_CELLS
    mesh_format: str = "ply"
    lps: bool = False
    spacing_mm: float | None = None
    spacing_from: str | None = None
    latents: bool = False
    latent_bits: int = DEFAULT_BITS
    geometry_from: str | None = None
    label_mapping: LabelMapping | None = None
    annotated: tuple[str, ...] | None = None
    given: tuple[str, ...] | None = None
    complete: bool = False
    extend_mm: float = 0.0
    slices: str | None = None
    samples: int = 0
    repair: bool = False
    refine: Refinement = NO_REFINEMENT


def made_from(model: LoadedModel, output: OutputSettings) -> dict:
    """All that decides a heart's files but the heart itself, as result.json and metrics.json keep it."""
    tuned = {"calibration_sha256": model.tuning_sha256} if model.tuning_sha256 else {}
    placed = {"geometry_from": output.geometry_from} if output.geometry_from else {}
    # in 32 bits they are what they are without being saved
    rounded = {"latent_bits": output.latent_bits} if output.latents and output.latent_bits < 32 else {}
    return {
        "version": VERSION,
        "checkpoint_sha256": model.checkpoint_sha256,
        "num_surface_points": model.num_surface_points,
        "balance": model.balance,
        "seed": model.seed,
        "spacing_from": output.spacing_from,
        "meshes": output.meshes,
        "mesh_cells": output.mesh_cells if output.meshes else None,
        "mesh_format": output.mesh_format if output.meshes else None,
        "lps": output.lps and output.meshes,
        "spacing_mm": output.spacing_mm,
        "latents": output.latents,
        **rounded,
        **tuned,
        **placed,
        **({"label_map": output.label_mapping.text} if output.label_mapping else {}),
        **({"annotated": list(output.annotated)} if output.annotated else {}),
        **({"given": list(output.given)} if output.given else {}),
        **({"complete": True} if output.complete else {}),
        **({"extend_mm": output.extend_mm} if output.extend_mm else {}),
        **({"slices": output.slices} if output.slices else {}),
        **({"samples": output.samples} if output.samples else {}),
        **({"repair": REPAIR_VERSION} if output.repair else {}),
        **({"refine": [REFINE_VERSION, output.refine.seconds, output.refine.steps]} if output.refine else {}),
        **({"class_colours": colours} if (colours := getattr(model.class_names, "colours", {})) else {}),
        "num_latents": model.num_latents,
    }


def fingerprint(made_from: dict) -> str:
    """Of what a heart is made from: equal where the same files would come out."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
