"""Where the main job writes, and that a folder holds the results of one set of hearts: synthetic ones, or a user's."""

import json
from pathlib import Path

from vecset.common.atomic import write_text
from vecset.common.errors import InputError

RECORD = "input.json"  # beside the stamps: the folder of label maps that the results are of
OTHER_FOLDER = "give another --output_dir"


def output_of(input_dir: Path, outputs: Path) -> Path:
    """The folder in `outputs` for the results of the label maps in `input_dir`: of the same name, unless that is the
    folder of the label maps itself."""
    name = input_dir.resolve().name or "hearts"
    found = outputs / name
    return outputs / f"{name}_results" if found.resolve() == input_dir.resolve() else found


def holds_own_label_maps(output_dir: Path) -> bool:
    """Whether results in the folder are of a user's label maps and not of synthetic hearts."""
    stages = output_dir / "stages"
    return (stages / "prepare.json").is_file() and not (stages / "phantoms.json").is_file()


def require_same_hearts(output_dir: Path, input_dir: Path | None, by_name: bool) -> None:
    """Raises InputError where `output_dir` holds the results of other hearts than those of `input_dir` (None: synthetic
    ones): of synthetic hearts in place of a user's, or the other way round. by_name: the folder was chosen by the name
    of `input_dir`, which another folder may have, too; else the label maps may have been moved."""
    if input_dir is None:
        if holds_own_label_maps(output_dir):
            raise InputError.because(
                output_dir,
                "it holds the results of label maps of your own, and this command makes synthetic hearts",
                f"give their --input_dir to go on there, or {OTHER_FOLDER}",
            )
        return
    if (output_dir / "stages" / "phantoms.json").is_file() and input_dir.resolve() != (output_dir / "labels").resolve():
        raise InputError.because(output_dir, "it holds the results of synthetic hearts", OTHER_FOLDER)
    before = _recorded(output_dir) if by_name else None
    if before not in (None, str(input_dir.resolve())):
        raise InputError.because(
            output_dir,
            f"it holds the results of {before}, another folder of this name",
            f"{OTHER_FOLDER}; if the label maps were moved from there, give --output_dir {output_dir}",
        )


def record_input(output_dir: Path, input_dir: Path | None) -> None:
    """Writes down which label maps the results in `output_dir` are of."""
    if input_dir is not None:
        (output_dir / "stages").mkdir(exist_ok=True)
        write_text(output_dir / "stages" / RECORD, json.dumps({"input_dir": str(input_dir.resolve())}) + "\n")


def _recorded(output_dir):
    """The folder that `record_input` wrote down last, or None where there is no such record."""
    path = output_dir / "stages" / RECORD
    if not path.is_file():
        return None
    from vecset.common.user_files import read_json

    content = read_json(path, "the record of the folder of label maps")
    return content.get("input_dir") if isinstance(content, dict) else None
