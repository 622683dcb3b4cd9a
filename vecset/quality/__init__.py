"""Whether case files may be trained on: checks, thresholds, findings as data; which label maps a model finds odd. No
pages; torch in rank.py alone."""
