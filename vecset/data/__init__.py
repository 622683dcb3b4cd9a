"""Case files: made from label maps, split, and drawn from as training items. No network and no verdicts."""
