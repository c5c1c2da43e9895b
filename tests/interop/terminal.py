"""`otter run` at a terminal, under a shell with job control: the command may read, Ctrl-Z stops it and gives the shell its
terminal back, fg goes on with it, Ctrl-C ends it alone, and the machine is given back.

    terminal.py OTTER URL
"""

import os
import pty
import select
import sys
import time

PATIENCE = 15
shown = b""


def until(wanted):
    """Reads until the terminal has shown this, behind what was waited for before."""
    global shown
    end = time.monotonic() + PATIENCE
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        if not ready:
            sys.exit(f"waited in vain for {wanted!r}; the terminal shows {shown!r}")
        shown += os.read(terminal, 4096)
    shown = shown.partition(wanted)[2]


def types(text):
    os.write(terminal, text)


otter, url = sys.argv[1:]
shell, terminal = pty.fork()
if shell == 0:
    os.environ["PS1"] = "prompt> "
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
until(b"prompt> ")
types(f"{otter} run --url {url} --name sdw-staging -- cat\n".encode())
until(b"is held")
# Each is shown by the terminal itself, and by cat.
types(b"a line\n")
until(b"a line\r\na line\r\n")
types(b"\x1a")
until(b"Stopped")
until(b"prompt> ")
types(b"fg\n")
until(b"-- cat")
types(b"another\n")
until(b"another\r\nanother\r\n")
types(b"\x03")
until(b"the machine is given back")
until(b"prompt> ")
types(b"echo status-$?\n")
until(b"status-130")
types(b"exit\n")
