#!/usr/bin/env python
"""Loading of training batches at full counts: memory cache, memory-mapped files, and plain reads, in one run.

    python benchmarks/data_loading.py            24 synthetic case files, two minutes on two free cores

8,192 surface points, 3,072 queries and 1,024 Eikonal points per case from files of 3 x 50,000 points, batch 8. The
ways are measured in turn, --repeat times; the fastest round of each counts. Cases per second by the clock depend on
the load of the machine; ratios and CPU seconds per case do not. Memory is that of the training process and its loader
processes together, shared pages counted once (PSS), after epochs 1, 5 and 10.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

sys.path[0] = str(Path(__file__).resolve().parents[1])

from vecset.common.cores import usable_cores  # noqa: E402
from vecset.data.case_file import Case, write_case  # noqa: E402
from vecset.data.listed_case import ListedCase  # noqa: E402
from vecset.imaging.frame import Frame  # noqa: E402
from vecset.items.dataset import CaseDataset, PointCounts  # noqa: E402
from vecset.items.loader import iterate_batches  # noqa: E402

CLASSES, RADIUS, SIZE = 10, 0.8, 16


def write_ball(path, rows, seed):
    """A case file of `rows` points per group: a ball cut into ten slabs."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(rows, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points = {
        "surface": direction * RADIUS,
        "near": direction * (RADIUS + 0.05 * rng.normal(size=(rows, 1))),
        "vol": rng.uniform(-1, 1, (rows, 3)),
    }
    arrays = {"surface_normals": direction.astype(np.float16), "surface_cap": np.zeros(rows, bool)}
    for group, at in points.items():
        slab = (((at[:, 0] + RADIUS) / (2 * RADIUS) * CLASSES).clip(0, CLASSES - 1) + 1).astype(np.uint8)
        sdf = (np.linalg.norm(at, axis=1) - RADIUS).astype(np.float32)
        arrays |= {
            f"{group}_points": at.astype(np.float32),
            f"{group}_sdf": sdf,
            f"{group}_labels": np.where(sdf < 0, slab, 0).astype(np.uint8),
        }
        if group == "surface":
            arrays |= {"surface_sdf": np.zeros(rows, np.float32), "surface_labels": slab, "near_source": slab}
    frame = Frame(np.diag([1.0, 1, 1, 1]), (SIZE,) * 3, np.full(3, SIZE / 2), 2 / SIZE)
    write_case(
        path,
        Case(
            arrays=arrays,
            frame=frame,
            truth_crop=np.ones((4, 4, 4), np.uint8),
            truth_origin=np.zeros(3, int),
            meta={
                "classes": CLASSES,
                "class_names": [f"c{c}" for c in range(1, CLASSES + 1)],
                "annotated_classes": list(range(1, CLASSES + 1)),
            },
        ),
    )


class MappedDataset(CaseDataset):
    """Reads once which rows belong to which group, and maps the members' bytes from the file: they lie in it
    uncompressed. The page cache of the system takes the place of the cache in memory."""

    def _read(self, index):
        arrays = super()._read(index)
        return {
            name: value if name.startswith("rows_") else map_member(self.cases[index].path, name)
            for name, value in arrays.items()
        }


def map_member(path, name):
    """A member of an npz as a memory-mapped array."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as handle:
        start = archive.getinfo(f"{name}.npy").header_offset
        handle.seek(start + 26)
        name_length, extra_length = np.frombuffer(handle.read(4), "<u2")
        handle.seek(start + 30 + int(name_length) + int(extra_length))
        np.lib.format.read_magic(handle)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
        return np.memmap(path, dtype, "r", handle.tell(), shape, "F" if fortran else "C")


def make_dataset(way, entries, counts):
    kind = MappedDataset if way == "memory-mapped" else CaseDataset
    return kind(
        entries,
        PointCounts(counts["surface"], *(counts["queries"] // 3,) * 3, eikonal=counts["eikonal"]),
        0,
        True,
        cache="none" if way == "plain reads" else "memory",
    )


def keys(cases, batch, first_epoch, epochs):
    for epoch in range(first_epoch, first_epoch + epochs):
        yield from ([(epoch, i) for i in range(s, min(s + batch, cases))] for s in range(0, cases, batch))


def cpu_seconds():
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def one_round(dataset, workers, batch, epochs):
    """(cases per second by the clock, CPU seconds per case), starting and ending the workers included."""
    began, cpu, seen = time.perf_counter(), cpu_seconds(), 0
    for items in iterate_batches(dataset, keys(len(dataset), batch, 0, epochs), workers):
        seen += len(items["case_index"])
    return seen / (time.perf_counter() - began), (cpu_seconds() - cpu) / seen


def memory_mb():
    """PSS of this process and its children."""
    me = os.getpid()
    pids = [me] + [int(p) for p in Path(f"/proc/{me}/task/{me}/children").read_text().split()]
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def memory_over_epochs(dataset, workers, batch, epochs):
    """MB after epochs 1, the middle one and the last, read while the loader still runs."""
    found, seen, cases = {}, 0, len(dataset)
    for items in iterate_batches(dataset, keys(cases, batch, 0, epochs), workers):
        seen += len(items["case_index"])
        epoch, rest = divmod(seen, cases)
        if not rest and epoch in (1, epochs // 2, epochs):
            found[epoch] = memory_mb()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=24, help="case files (default: 24)")
    parser.add_argument("--rows", type=int, default=50000, help="points per group in a file (default: 50000)")
    parser.add_argument("--surface", type=int, default=8192, help="surface points per case (default: 8192)")
    parser.add_argument("--queries", type=int, default=3072, help="query points per case (default: 3072)")
    parser.add_argument("--eikonal", type=int, default=1024, help="Eikonal points per case (default: 1024)")
    parser.add_argument("--batch_size", type=int, default=8, help="cases per batch (default: 8)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of every way (default: 3)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of a round, and of the memory (default: 10)")
    args = parser.parse_args()
    counts = {"surface": args.surface, "queries": args.queries, "eikonal": args.eikonal}
    with tempfile.TemporaryDirectory() as folder:
        entries = []
        for i in range(args.cases):
            path = Path(folder) / f"ball{i:02d}.npz"
            write_ball(path, args.rows, i)
            entries.append(ListedCase(path.stem, path, class_names=tuple("abcdefghij"), annotated=(True,) * CLASSES))
        megabytes = entries[0].path.stat().st_size / 1e6
        print(
            f"{args.cases} files of {megabytes:.1f} MB, batch {args.batch_size}, {usable_cores()} cores, load "
            f"{os.getloadavg()[0]:.1f}; files in the system's page cache"
        )
        ways = [(way, workers) for workers in (0, 2) for way in ("memory cache", "memory-mapped", "plain reads")]
        datasets = {way: make_dataset(way, entries, counts) for way, _ in ways}
        before = memory_mb()
        for way, dataset in datasets.items():
            dataset.load()
            print(f"{way}: {memory_mb() - before:+.0f} MB after reading all cases once")
            before = memory_mb()
        found = {way: [] for way in ways}
        for _ in range(args.repeat):
            for way, workers in ways:
                found[way, workers].append(one_round(datasets[way], workers, args.batch_size, args.epochs))
        base = max(speed for speed, _ in found[ways[0]])
        print(
            "| way | workers | cases/s | against the first | CPU ms per case | MB after epochs 1, 5, 10 |\n"
            "|---|---|---|---|---|---|"
        )
        for way, workers in ways:
            speed, cpu = max(s for s, _ in found[way, workers]), min(c for _, c in found[way, workers])
            memory = memory_over_epochs(datasets[way], workers, args.batch_size, args.epochs)
            print(
                f"| {way} | {workers} | {speed:.0f} | {speed / base:.2f} | {1000 * cpu:.2f} | "
                f"{', '.join(f'{mb:.0f}' for mb in memory.values())} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
