# SPDX-License-Identifier: MIT
"""What a result must say of where it came from: processor, kernel, versions. No names of hosts, users or files."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

_PACKAGES = (
    "libpam0g", "libpam-modules", "libpam-oath", "libpam-google-authenticator", "redis-server", "valkey-server",
    "python3-redis", "python3-hiredis", "python3-requests", "python3-requests-oauthlib", "python3-oauthlib",
    "python3-systemd", "python3-cryptography", "python3-phonenumbers",
)  # fmt: skip


def describe() -> dict[str, object]:
    """The machine, as it goes into a result."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    release = platform.freedesktop_os_release()
    return {
        "processor": found[1] if found else platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "system": release.get("PRETTY_NAME", "Linux"),
        "python": _output("/usr/bin/python3", "-c", "import platform; print(platform.python_version())"),
        "packages": _packages(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _packages() -> dict[str, str]:
    form = "--showformat=${binary:Package} ${Version} ${db:Status-Status}\n"
    shown = _output("dpkg-query", "--show", form, *_PACKAGES)
    rows = (line.split(" ") for line in shown.splitlines())
    return {name.partition(":")[0]: version for name, version, status in rows if status == "installed"}


def _output(*argv: str) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.strip()
