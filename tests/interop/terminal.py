"""`otter run` in a terminal, from a shell with job control: the command can read the terminal,
Ctrl-Z stops it and returns to the shell, fg continues it, Ctrl-C ends only the command, and the
machine is given back.

    terminal.py OTTER URL
"""

import os
import pty
import select
import sys
import time

TIMEOUT = 15
shown = b""


def wait_for(expected):
    """Reads until the terminal has shown this text, after the text of the last call."""
    global shown
    end = time.monotonic() + TIMEOUT
    while expected not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        if not ready:
            sys.exit(f"the terminal does not show {expected!r}, but {shown!r}")
        shown += os.read(terminal, 4096)
    shown = shown.partition(expected)[2]


def type_text(text):
    os.write(terminal, text)


otter, url = sys.argv[1:]
shell, terminal = pty.fork()
if shell == 0:
    os.environ["PS1"] = "prompt> "
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
wait_for(b"prompt> ")
type_text(f"{otter} run --url {url} --name sdw-staging -- cat\n".encode())
wait_for(b"is held")
# The terminal echoes the line, and cat prints it.
type_text(b"a line\n")
wait_for(b"a line\r\na line\r\n")
type_text(b"\x1a")
wait_for(b"Stopped")
wait_for(b"prompt> ")
type_text(b"fg\n")
wait_for(b"-- cat")
type_text(b"another\n")
wait_for(b"another\r\nanother\r\n")
type_text(b"\x03")
wait_for(b"the machine is given back")
wait_for(b"prompt> ")
type_text(b"echo status-$?\n")
wait_for(b"status-130")
type_text(b"exit\n")
