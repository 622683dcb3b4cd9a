"""What a network infers, in the report of a run: read from the folder that `python -m vecset.complete` has written."""

import base64
import json
from pathlib import Path

from vecset.common.errors import InputError

FOLDER, FIGURES, PICTURE = "completion", "completion.json", "completion.png"


def completion_of(run_dir: str | Path, checkpoint_sha256: str | None = None) -> dict | None:
    """What report.html shows of a training run's folder: rows, hearts, settings, and picture (PNG in base64, or None).
    None where there is nothing, or where another checkpoint made it. InputError for a file that cannot be read."""
    path = Path(run_dir) / FOLDER / FIGURES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = content["settings"]
        if checkpoint_sha256 and settings["checkpoint_sha256"] != checkpoint_sha256:
            return None
        found = {"rows": content["rows"], "hearts": content["hearts"], "settings": settings}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError.because(
            path, f"it cannot be read ({type(error).__name__})", "make it again with python -m vecset.complete"
        ) from None
    picture = path.with_name(PICTURE)
    found["picture"] = base64.b64encode(picture.read_bytes()).decode() if picture.is_file() else None
    return found


def table_lines(found: dict) -> list[str]:
    """The table for the terminal, of what `vecset.report.completion.measure` gives."""
    width = max(len(row["left_out"]) for row in found["rows"])
    lines = [f"{'left out'.ljust(width)}  hearts  inferred  given  given, with nothing left out"]
    for row in found["rows"]:
        cells = (_number(row[key]) for key in ("dice", "given_dice", "given_before"))
        dice, given, before = cells
        lines.append(f"{row['left_out'].ljust(width)}  {row['hearts']:6d}  {dice:>8}  {given:>5}  {before}")
    return lines


def _number(value):
    return "-" if value is None else f"{value:.3f}"
