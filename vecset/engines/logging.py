"""What a run prints and records: lines on the terminal, JSON in log.txt, curves in tensorboard and wandb."""

import itertools
import json
import math
import os
import resource
import sys
import time
from pathlib import Path

import torch

from vecset.common.atomic import append_text, atomic_path, write_text
from vecset.common.errors import InputError
from vecset.common.signals import print_line

LOG = "log.txt"


def say(text: str) -> None:
    """One line on stdout, at once (also into a file or a pipe); above a progress bar where there is one. A terminal
    that was closed, or a pipe whose reader has ended, costs the line and not the run: log.txt has the figures."""
    if sys.stderr.isatty() and "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(text)
        sys.stdout.flush()
    else:
        print_line(text)


def progress_bar(total: int, done: int):
    """A bar of optimizer steps with the time left. None where no terminal shows it (the lines give the time left too),
    and on a bare PyTorch image without tqdm."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, initial=done, unit="step", desc="train", dynamic_ncols=True)


def short_time(seconds: float) -> str:
    """'2 d 03 h', '1 h 05 m', '3 m 20 s', '42 s'."""
    seconds = int(round(seconds))
    for unit, size, next_unit, next_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // next_size:02d} {next_unit}"
    return f"{seconds} s"


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory so far: of the GPU by torch's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def format_values(values: dict) -> str:
    """'loss 0.1234 vol 0.0123': four digits each; what has no value is left out."""
    return " ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)


def format_speed(speed: dict, device: torch.device) -> str:
    """'12.3 GFLOP/s ' on a CPU, '312 TFLOP/s (MFU 31.6 %) ' on a GPU whose peak is known; "" where operations are not
    counted. speed: flop_per_second and mfu, where there are any."""
    if "flop_per_second" not in speed:
        return ""
    unit, size = ("TFLOP/s", 1e12) if device.type == "cuda" else ("GFLOP/s", 1e9)
    share = f" (MFU {100 * speed['mfu']:.3g} %)" if "mfu" in speed else ""
    return f"{speed['flop_per_second'] / size:.3g} {unit}{share} "


class RunLog:
    """Writes records to OUTPUT_DIR/log.txt, and their numbers to tensorboardX and wandb where those are switched on.

    `first_step`: the global step that the run starts from; records of later steps, left by a run that was killed after
    its last checkpoint, are removed, so every step is there once. `validates_first`: the validation of that step is
    still to come, so a record of it goes too. `keep`: the run does not go on from its last checkpoint, so these records
    are of models that are gone; the whole log is kept beside the new one."""

    def __init__(
        self,
        output_dir,
        config,
        first_step=0,
        log_dir=None,
        wandb="disabled",
        project=None,
        name=None,
        validates_first=False,
        keep=False,
    ):
        self.path = Path(output_dir) / LOG
        self._drop_from(first_step, validates_first, keep)
        self._tensorboard = self._wandb = None
        if log_dir:
            self._tensorboard = _import("tensorboardX", "--log_dir").SummaryWriter(str(log_dir), purge_step=first_step)
        if wandb != "disabled":
            id_file = Path(output_dir) / "wandb_id.txt"
            if not id_file.is_file():
                write_text(id_file, os.urandom(4).hex())
            try:
                self._wandb = _import("wandb", "--wandb").init(
                    project=project,
                    name=name or Path(output_dir).resolve().name,
                    dir=str(output_dir),
                    mode=wandb,
                    config=config,
                    id=id_file.read_text().strip(),
                    resume="allow",
                )
            except InputError:
                raise
            except Exception as error:
                raise InputError.because(
                    f"--wandb {wandb}",
                    "wandb could not start (" + " ".join(f"{type(error).__name__}: {error}".split())[:160] + ")",
                    "set HOME to a folder that can be written to"
                    if "home directory" in str(error)
                    else "leave --wandb out"
                    if wandb == "offline"
                    else "set WANDB_API_KEY, or use --wandb offline",
                ) from None

    def _drop_from(self, first_step, validates_first, keep):
        if not self.path.is_file():
            return
        content, kept, dropped = self.path.read_bytes(), [], 0
        for line in content.decode("utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                again = validates_first and record["kind"] == "val" and record["global_step"] == first_step
                if record["global_step"] <= first_step and not again:
                    kept.append(line)
                else:
                    dropped += 1
            except (ValueError, KeyError, TypeError):  # the half line of a killed writer
                continue
        if keep and dropped:
            aside = next(p for n in itertools.count(1) if not (p := self.path.with_name(f"log.old-{n}.txt")).exists())
            with atomic_path(aside) as temporary:
                temporary.write_bytes(content)
            say(f"note: {self.path} had {dropped} records of later steps; the whole log is kept as {aside.name}")
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def record(self, kind: str, global_step: int, values: dict, **more) -> None:
        """One record: `kind` ('train' or 'val'), numbers by name, and anything else that JSON can hold."""
        record = {"kind": kind, "global_step": global_step, "time": round(time.time(), 1), **values, **more}
        append_text(self.path, json.dumps(_without_nan(record)) + "\n")
        numbers = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, (int, float))}
        if self._tensorboard:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, global_step)
            self._tensorboard.flush()
        if self._wandb:
            self._wandb.log({**numbers, "global_step": global_step}, step=global_step)

    def picture(self, name: str, image, global_step: int) -> None:
        """image (H, W, 3) u8."""
        if self._tensorboard:
            self._tensorboard.add_image(name, image, global_step, dataformats="HWC")
        if self._wandb:
            self._wandb.log({name: _import("wandb", "--wandb").Image(image)}, step=global_step)

    def close(self) -> None:
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()


def _without_nan(value):
    """JSON has no NaN: a number that is not finite becomes its name."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _import(module, flag):
    try:
        return __import__(module)
    except ImportError:
        raise InputError.because(flag, f"the package {module} is not installed", f"pip install {module}") from None
