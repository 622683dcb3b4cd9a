"""How tests start the programs that they send signals to."""

import subprocess

# What a shell starts in the background ignores SIGINT, and so does all that it starts. A program whose answer to SIGINT
# is tested begins with the system's default, however the tests themselves were started.
HEARS_SIGINT = ("env", "--default-signal=INT")


def start(words, **options):
    """subprocess.Popen of `words` (the process id is the program's own), SIGINT as from a terminal, output as text."""
    return subprocess.Popen([*HEARS_SIGINT, *map(str, words)], text=True, **options)
