"""Slurm's side: preflight, shards of an array, where a run stands. Nothing that a single machine needs."""
