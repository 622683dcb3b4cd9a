"""The commands behind the root scripts: their flags and the calls they make, and nothing else."""
