"""Training: the loop, losses, validation, what a run keeps and says. Torch and numpy only; no label map files."""
