"""A trained model, from Python: load a checkpoint, read a heart, encode it, decode its field.

model = load_model("checkpoint-best.pth")
case = model.read("heart.nii.gz")                         # label map, case file or point cloud
latents = model.encode(case)
field = model.field(latents, drawn_C=is_seen(case.states))  # no structure that is not in the input
labels = decode_label_map(field, case.frame).labels       # on the patient's grid (vecset/fields/decoding.py)
meshes = class_meshes(field, case.frame)                  # in the patient's mm (vecset/fields/meshes.py)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vecset.common.errors import InputError
from vecset.data.case_file import Case, names_of_meta
from vecset.data.listed_case import ListedCase
from vecset.fields.decision_tuning import DecisionTuning, decision_tuning_of, read_decision_tuning
from vecset.fields.heart_field import CHUNK, HeartField
from vecset.imaging.label_map import file_sha256
from vecset.imaging.label_mapping import LabelMapping
from vecset.inference.inputs import draw_surface, find_hearts, load_heart
from vecset.inference.latents import read_latents
from vecset.items.observation import REACH_UNIT, parse_observe
from vecset.models.autoencoder import option_words, parse_model_name
from vecset.models.embedding import surface_features
from vecset.weights import checkpoint as checkpoint_file


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to encode and decode, with what decides how hearts are read and labelled.

    num_surface_points, balance, seed: of the surface points that the encoder reads, drawn as in training; num_latents:
    of each heart; decision_tuning, tuning_sha256: of `reconstruct.py --calibration`, or None; description: the
    network's name and options; epoch: of the checkpoint; observed: kinds of `main_ae.py --observe` that it was trained
    with; class_loss: of its logits, None for a network that has none."""

    network: torch.nn.Module
    class_names: list[str]
    device: torch.device
    num_surface_points: int
    num_latents: int
    balance: float
    seed: int
    checkpoint_sha256: str
    decision_tuning: DecisionTuning | None = None
    tuning_sha256: str | None = None
    description: str = ""
    epoch: int | None = None
    observed: tuple[str, ...] = ()
    class_loss: str | None = None

    @property
    def latent_words(self) -> str:
        """What there is to say about the latents that are used, "" where they are num_latents of one field."""
        return getattr(self.network, "latent_words", str)()

    def read(
        self,
        heart: ListedCase | Path | str,
        spacing_from: str | None = None,
        spacing_mm: float | None = None,
        geometry_from: str | None = None,
        label_mapping: LabelMapping | None = None,
        annotated: Sequence[str] | None = None,
        given: Sequence[str] | None = None,
        slices: str | None = None,
        with_field: bool = False,
    ) -> Case:
        """The `Case` of a case file, a label map or a point cloud with labels: surface points, frame, and the truth
        where there is one. A label map goes through the data preparation. `spacing_from` ('affine' or 'pixdim') and
        `geometry_from` ('sform' or 'qform'): what holds where a label map's header contradicts itself; `spacing_mm`: of
        the grid that a point cloud gets (1 mm); `label_mapping`: which values of a label map are which class, by
        names; `annotated`, `given`: ids or names of the classes that were looked for, and of those that are shown;
        `slices`: the input shows planes, "file": a stack of slices or labelled points, "folder": all label maps of a
        folder together (vecset/sparse/slices.py); `with_field`: with the points at which its distances and labels are
        known (vecset/inference/refinement.py)."""
        heart = heart if isinstance(heart, ListedCase) else find_hearts(heart, slices=slices)[0]
        how = spacing_from, spacing_mm, geometry_from, label_mapping, annotated, given, slices, with_field
        return load_heart(heart, self.class_names, self.seed, self.num_surface_points, *how)

    def encode(self, case: Case, case_id: str | None = None) -> torch.Tensor:
        """Latents (1, M, L) on the model's device. `case_id` seeds the draw of surface points; by default the name of
        the case's file, as `reconstruct.py` has it."""
        if case_id is None:
            case_id = find_hearts(case.path, slices="folder" if case.path.is_dir() else None)[0].case_id
        points_unit, labels = draw_surface(case, case_id, self.num_surface_points, self.balance, self.seed)
        surface_BNF = surface_features(
            torch.from_numpy(points_unit)[None], torch.from_numpy(labels)[None], len(self.class_names)
        )
        told = {}
        if self.told_states:
            told["states_BC"] = torch.from_numpy(case.states.astype(np.int64))[None].to(self.device)
        with torch.inference_mode():
            return self.network.encode(surface_BNF.to(self.device), **told)

    def stored_latents(self, path: Path | str) -> tuple[torch.Tensor, Case]:
        """(latents (1, M, L), `Case` with the frame alone) of a file of `reconstruct.py --latents`. InputError where
        another checkpoint made it."""
        latents_ML, case = read_latents(path)
        if case.meta["checkpoint_sha256"] != self.checkpoint_sha256:
            raise InputError.because(
                path, "another checkpoint made these latents", "give the checkpoint that they were made with"
            )
        return torch.from_numpy(latents_ML)[None].to(self.device), case

    @property
    def told_states(self) -> bool:
        """Whether it was trained to infer what it does not see (main_ae.py --observe)."""
        return getattr(self.network, "told_states", False)

    @property
    def inferred_radius_unit(self) -> float | None:
        """Of the ball round the middle of what is seen in which it was trained to say what is there; None for a model
        that was trained in the unit cube alone."""
        return REACH_UNIT if self.told_states else None

    @property
    def answer_numbers(self) -> int:
        """How many random numbers steer its answers; 0: it has one answer."""
        return getattr(self.network, "noise_numbers", 0)

    @property
    def answer_interval(self) -> float | None:
        """The factor of `interval_round` for the volumes of several answers; None where it was not found."""
        return self.decision_tuning.answer_interval if self.decision_tuning else None

    @property
    def latents_have_places(self) -> bool:
        """Whether the last three numbers of each latent are its place (unit)."""
        return getattr(self.network, "anchored", False) and self.network.query_type == "point"

    @property
    def stored_rows(self) -> int:
        """How many of the last rows of `encode` are no latents (vecset/models/proposed_distances.py)."""
        return getattr(self.network, "stored_rows", 0)

    def field(
        self,
        latents: torch.Tensor | np.ndarray,
        chunk: int = CHUNK,
        drawn_C: np.ndarray | None = None,
        radius_unit: float | None = None,
        noise_K: np.ndarray | None = None,
        inferred_C: np.ndarray | None = None,
        refined: bool = False,
    ) -> HeartField:
        """The decoded field of a heart's latents, (1, M, L) or (M, L); `chunk`: points decoded at once. `drawn_C`: (C,)
        bool, the classes that may be drawn (None: all), `is_seen(case.states)` for those that `reconstruct.py` draws
        without an option; `radius_unit`: `inferred_radius_unit` where parts of the heart may lie beyond the unit
        cube; `noise_K`: unit normal numbers, `answer_numbers` of them, for one of several answers; `inferred_C`: (C,)
        bool, the classes that are inferred, whose decisions are tuned by themselves (None: none); `refined`: latents
        that were fitted to their heart (vecset/inference/refinement.py), whose decisions may be, too."""
        latents, tuning = torch.as_tensor(latents), self.decision_tuning
        if tuning and refined:
            tuning = tuning.for_refined()
        elif tuning and inferred_C is not None:
            tuning = tuning.for_heart(inferred_C)
        return HeartField(self.network, latents, chunk, self.device, tuning, drawn_C, radius_unit, noise_K)


def load_model(
    checkpoint: Path | str,
    *,
    device: str = "auto",
    num_latents: int | None = None,
    num_surface_points: int | None = None,
    decision_tuning: Path | str | None = None,
    seed: int = 0,
) -> LoadedModel:
    """The model of a checkpoint of main_ae.py, or of released weights (vecset/weights/release.py). `num_latents`
    (models with point queries alone) and `num_surface_points`: None means as in training, or as the release says;
    `decision_tuning`: a file of python -m vecset.calibrate for this checkpoint; None: that of the release, or none.
    InputError where a file is none of these, or the numbers do not fit the model."""
    checkpoint, chosen = Path(checkpoint), choose_device(device)
    stored = checkpoint_file.load_checkpoint(checkpoint)
    class_names, config = names_of_meta(stored), stored["model_config"]
    network = checkpoint_file.model_from_checkpoint(stored, chosen, checkpoint)
    network.requires_grad_(False)  # nothing is trained here
    training = stored["args"] if isinstance(stored["args"], dict) else vars(stored["args"])
    sha256, observe = file_sha256(checkpoint), training.get("observe") or ""
    if decision_tuning:
        tuning = read_decision_tuning(Path(decision_tuning), class_names, sha256)
    else:
        own = stored.get("decision_tuning")
        tuning = decision_tuning_of(own, class_names, checkpoint) if own else None
    reading, sizes = stored.get("reading", {}), parse_model_name(config["name"])
    points = num_surface_points or reading.get("num_surface_points") or int(training["point_cloud_size"])
    num_latents = num_latents or reading.get("num_latents")
    latents = num_latents or sizes["num_latents"]
    if sizes["query_type"] == "point" and latents > points:
        raise InputError(
            "--num_surface_points",
            f"at least the {latents} latents of the model, which are chosen among the points",
            points,
            "raise it",
        )
    if num_latents:
        network.use_latents(num_latents)
    return LoadedModel(
        network,
        class_names,
        chosen,
        points,
        latents,
        float(training.get("balance") or 0.0),
        seed,
        sha256,
        tuning,
        file_sha256(decision_tuning) if decision_tuning else None,
        f"{config['name']} {option_words(config)}".strip(),
        stored.get("epoch"),
        tuple(kind for kind, share in parse_observe(observe).items() if share) if observe else (),
        training.get("class_loss") or "bce" if _has_logits(config) else None,
    )


def _has_logits(config):
    return config.get("network", "joint") == "joint" and config.get("class_outputs", "logits") != "distances"


def choose_device(name: str) -> torch.device:
    """'auto' (CUDA where there is one), 'cpu', 'cuda' or 'cuda:N'; InputError where this machine has no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError.because(
            "--device",
            f"{name} cannot be used on this machine ({str(error).splitlines()[0][:100]})",
            "give auto, cpu, cuda or cuda:N",
        ) from None
    return device
