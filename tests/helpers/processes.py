"""How tests start the programs that they send signals to."""

import os
import socket
import subprocess
import sys

# What a shell starts in the background ignores SIGINT, and so does all that it starts. A program whose answer to SIGINT
# is tested begins with the system's default, however the tests themselves were started. Likewise SIGHUP under nohup.
HEARS_SIGNALS = ("env", "--default-signal=INT,HUP")
UNDER_NOHUP = ("env", "--default-signal=INT", "--ignore-signal=HUP")


def start(words, before=HEARS_SIGNALS, **options):
    """subprocess.Popen of `words` (the process id is the program's own), signals as from a terminal, or as `before`
    sets them; output as text."""
    return subprocess.Popen([*before, *map(str, words)], text=True, **options)


def torchrun(ranks):
    """The words that start a script in `ranks` processes of this machine.

    Everything stays on the loopback address: left alone, torchrun looks up the name of the machine, and fails after a
    minute where that is unknown (a container, no network, /etc/hosts being rewritten).
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    return [*launcher, f"--nproc_per_node={ranks}"]


def rank_environment():
    """Variables for `torchrun`: one thread per rank, gloo on the loopback interface."""
    interface = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface}
