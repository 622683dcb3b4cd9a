"""The network. Torch and numpy only; nothing about cases on a disk."""
