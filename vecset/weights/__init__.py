"""The weights of a network as files: checkpoints, and what a run may start from."""
