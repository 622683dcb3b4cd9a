"""Whether case files may be trained on: checks, thresholds, findings as data. No pages and no torch."""
