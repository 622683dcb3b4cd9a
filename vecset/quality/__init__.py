"""May these case files be trained on: checks, thresholds, findings as data. No pages and no torch."""
