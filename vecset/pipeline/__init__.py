"""The main job: stages, what is done, recipes. It starts commands and does none of their work."""
