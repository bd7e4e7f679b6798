# SPDX-License-Identifier: MIT
"""A former build of the package, for upgrades: today's, with an older version and other configuration files.

Its block of PAM lines is that of an earlier version, as a conffile.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

VERSION = "0.0.9"
CHANGED = {"usr/share/textgate/textgate.toml", "etc/textgate/redis.conf", "usr/share/textgate/textgate.pam"}
BLOCK = "etc/pam.d/textgate"
DAEMON_UNIT = "usr/lib/systemd/system/textgated.service"
LINE = "# A line of the former build.\n"


def former_deb(deb: Path, folder: Path) -> Path:
    """Make it in `folder`, which is to be empty."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN" / "control"
    lines = control.read_text().splitlines(keepends=True)
    control.write_text("".join(f"Version: {VERSION}\n" if line.startswith("Version: ") else line for line in lines))
    for name in CHANGED:
        (tree / name).write_text((tree / name).read_text() + LINE)
    shipped = tree / "usr/share/textgate/textgate.pam"
    lines = shipped.read_text().splitlines(keepends=True)
    shipped.write_text("".join(line for line in lines if not line.endswith(("so start\n", "so finish\n"))))
    (tree / BLOCK).write_bytes(shipped.read_bytes())
    conffiles = tree / "DEBIAN" / "conffiles"
    conffiles.write_text(conffiles.read_text() + f"/{BLOCK}\n")
    unit = tree / DAEMON_UNIT  # which had no folder of its own then
    lines = unit.read_text().splitlines(keepends=True)
    unit.write_text("".join(line for line in lines if not line.startswith("StateDirectory")))
    init = tree / "usr/lib/python3/dist-packages/textgate/__init__.py"
    former = [line for line in init.read_text().splitlines(keepends=True) if not line.startswith("__version__ =")]
    init.write_text("".join(former) + f'__version__ = "{VERSION}"\n')
    made = folder / deb.name.replace(deb.name.split("_")[1], VERSION)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, made], check=True, stdout=subprocess.DEVNULL)
    return made
