"""The options that a result depends on, by the names and defaults of the command that makes it.

Two command lines with the same options here give the same result, whatever aliases or order they use.
"""

import argparse
import codecs
import functools
import hashlib
from pathlib import Path

# Options of training that change where and how fast it runs and what it reports, and not what it learns.
# --init_from is none of them: with other first weights the result is another one.
NOT_IN_TRAINING_RESULT = {
    "data_path",
    "csv_dir",
    "output_dir",
    "resume",
    "eval",
    "dry_run",
    "device",
    "num_workers",
    "cache",
    "compile",
    "checkpoint_activations",
    "shard",
    "wait_for_ranks",
    "save_every_minutes",
    "print_every",
    "log_dir",
    "wandb",
    "wandb_project",
    "wandb_name",
    "shape_model",  # a path: what the file holds counts, as an input
}
TRAINING_LIMITS = {"max_steps", "max_minutes"}  # how long to train: with a larger one, a run continues
# {earlier name: present name} of options. Without its entry here, a renamed option makes finished stages run again.
RENAMED = {
    "class_gap": "fps_class_gap",
    "latent_density": "fps_density",
    "label_map": "label_mapping",
    "drop_crumbs": "drop_islands",
}
NOT_IN_CASE_FILES = {"input_dir", "output_dir", "file_workers", "overwrite"}


def flags(options: dict) -> list[str]:
    """{flag: value} as words of a command line; None leaves the flag out, True gives it without a value."""
    words = []
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


@functools.lru_cache
def _training_arguments(words, **defaults):
    from vecset.engines.arguments import parse_arguments  # brings torch

    return vars(parse_arguments(["--data_path", "cases", "--output_dir", "train", *words], defaults))


def training_options(words) -> dict:
    """{name: value} of the options in `words` of a training command, and of all defaults, that the result depends on.
    Exits as the command would where a word is wrong."""
    leave_out = NOT_IN_TRAINING_RESULT | TRAINING_LIMITS
    return {k: v for k, v in _training_arguments(tuple(map(str, words))).items() if k not in leave_out}


def training_limits(words) -> dict:
    """{name: value} of the options in `words` of a training command that say how long to train at most."""
    arguments = _training_arguments(tuple(map(str, words)))
    return {name: arguments[name] for name in sorted(TRAINING_LIMITS)}


def own_model(words) -> str | None:
    """The model that a user's words for the training command name, or None where they name none."""
    return _training_arguments(tuple(map(str, words)), model="")["model"] or None


def own_shape_model(words) -> Path | None:
    """The file of a shape model that a user's words for the training command name, or None where they name none."""
    named = _training_arguments(tuple(map(str, words)))["shape_model"]
    return Path(named).resolve() if named else None


def own_epochs(words) -> int | None:
    """The --epochs that a user's words for the training command name, or None where they name none."""
    return _training_arguments(tuple(map(str, words)), epochs=0)["epochs"] or None


def prepare_arguments(words) -> argparse.Namespace:
    """The options in `words` of prepare_data.py, and all defaults. Raises InputError, or exits, as it would."""
    from vecset.commands.prepare_data import parse_arguments  # brings numpy

    return parse_arguments(["--input_dir", "labels", "--output_dir", "cases", *map(str, words)])


def prepare_options(words) -> dict:
    """{name: value} of the options in `words` of prepare_data.py, and of all defaults, that case files depend on. A
    file of label values or of structures counts by its content, whatever its line ends are. Raises InputError, or
    exits, as the command would."""
    options = {k: v for k, v in vars(prepare_arguments(words)).items() if k not in NOT_IN_CASE_FILES}
    for name in ("label_mapping", "structures"):
        if options[name] is not None and Path(options[name]).is_file():
            content = Path(options[name]).read_bytes().removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")
            options[name] = hashlib.sha256(content).hexdigest()
    return options
