"""Become a command that Linux kills when the process that started it ends, however that ends.

A launcher, run as a script: `python -I -S die_with_parent.py PARENT_PID COMMAND [ARGUMENT ...]`. (`preexec_fn` would
run Python between fork and exec, which is not safe beside librdkafka's threads.)
Source: prctl(2), PR_SET_PDEATHSIG; the setting outlives an exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Take the place of this process."""
    parent_pid, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != int(parent_pid):
            sys.exit("the process that started this one has ended meanwhile")
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
