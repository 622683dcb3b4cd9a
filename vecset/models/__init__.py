"""The network, and its weights as files. Torch and numpy only; nothing about cases on a disk."""
