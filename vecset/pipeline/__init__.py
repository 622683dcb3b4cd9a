"""The main job: its stages, their stamps, the recipes. It starts commands and does no work of theirs."""
