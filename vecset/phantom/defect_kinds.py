"""The kinds of defects by name, in the order in which they are made (defects.py), for the command line."""

KINDS = (
    "leak",
    "coronary_detached",
    "pv_detached",
    "laa_detached",
    "coronary_gaps",
    "islands",
)
