"""A dialogue with the login of a simulated guest, by pexpect: on a serial port, through a program
that is its terminal.

    serial_login.py END PROGRAM [ARGUMENT...]

END is what is typed behind the prompt so that the program ends, without its line feed.
"""

import sys

import pexpect

TIMEOUT = 15

end, program, *arguments = sys.argv[1:]
# A timeout and an early end of the program are exceptions that show what came.
child = pexpect.spawn(program, arguments, timeout=TIMEOUT)
for _ in range(TIMEOUT):
    # The port may not be open yet.
    child.send("\r")
    if child.expect_exact(["dom0 login: ", pexpect.TIMEOUT], timeout=1) == 0:
        break
else:
    sys.exit(f"no login: {child.before!r}")
child.send("user\r")
child.expect_exact("Password: ")
child.send("otter\r")
child.expect_exact("[user@dom0 ~]$ ")
child.send("echo Hello-otter_42\r")
# The line that was typed is behind a prompt.
child.expect_exact("\r\nHello-otter_42\r\n")
child.expect_exact("[user@dom0 ~]$ ")
child.send("\r" + end)
child.expect(pexpect.EOF)
child.close()
if child.exitstatus != 0:
    sys.exit(f"{program} ended with {child.exitstatus} or {child.signalstatus}: {child.before!r}")
