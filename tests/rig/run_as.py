# SPDX-License-Identifier: MIT
"""Becomes another program, as another user, with sockets handed over as systemd hands them (sd_listen_fds(3)).

    run_as.py USER GROUP,GROUP FD,FD NAME:NAME TERMINAL PROGRAM ARGUMENT...

A program of its own because LISTEN_PID must be the number of the process that receives the sockets, and because
threads run in the process that starts it, where little may be done between fork and exec. TERMINAL is "terminal" if
standard input shall become the controlling terminal of a new session and belong to the user, else "-".
"""

import fcntl
import grp
import os
import pwd
import sys
import termios

FIRST_FD = 3  # SD_LISTEN_FDS_START


def main(user: str, groups: str, descriptors: str, names: str, terminal: str, *argv: str) -> None:
    """Never returns."""
    account = pwd.getpwnam(user)
    _hand_over([int(number) for number in descriptors.split(",") if number], names)
    if terminal == "terminal":
        os.setsid()
        fcntl.ioctl(sys.stdin.fileno(), termios.TIOCSCTTY, 0)
        os.fchown(sys.stdin.fileno(), account.pw_uid, grp.getgrnam("tty").gr_gid)
    os.setgroups(_group_ids(account, groups))
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.execvp(argv[0], argv)


def _hand_over(descriptors: list[int], names: str) -> None:
    # First out of the way of each other, then into the places where they are looked for.
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, FIRST_FD + 100) for number in descriptors]
    for number in descriptors:
        os.close(number)
    for place, number in enumerate(high, start=FIRST_FD):
        os.dup2(number, place, inheritable=True)
    if high:
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=names)


def _group_ids(account: pwd.struct_passwd, groups: str) -> list[int]:
    """The groups that the user database gives the account, and those named besides."""
    named = [grp.getgrnam(name).gr_gid for name in groups.split(",") if name]
    return sorted({*os.getgrouplist(account.pw_name, account.pw_gid), *named})


main(*sys.argv[1:])
