# SPDX-License-Identifier: MIT
"""What /usr/bin/textgate and /usr/sbin/textgated start: they load the rest, and say in one sentence if that can't be.

Needs nothing but the standard library at first; `textgate pam disable`, `pam status` and `pam confirm` load no more.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import FrameType

from . import rescue
from .errors import ExitCode
from .printable import printable_json

# Import name -> Debian package.
LIBRARIES = {
    "click": "python3-click",
    "cryptography": "python3-cryptography",
    "oauthlib": "python3-oauthlib",
    "pam": "python3-pampy",
    "phonenumbers": "python3-phonenumbers",
    "pyotp": "python3-pyotp",
    "redis": "python3-redis",
    "requests": "python3-requests",
    "requests_oauthlib": "python3-requests-oauthlib",
    "rich": "python3-rich",
    "systemd": "python3-systemd",
}


def main() -> int:
    """The `textgate` command."""
    words = sys.argv[1:]
    if rescue.is_for(words):
        return rescue.main(words)
    try:
        from .cli import main as command

        command()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # a library of another language panics in its own ways
        if not _is_of_loading(error):
            raise
        return cannot_load("textgate", error, is_json="--json" in words)
    return ExitCode.OK


def daemon() -> int:
    """The `textgated` command."""
    try:
        from .server import main as serve
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        return cannot_load("textgated", error)
    return serve()


def cannot_load(program: str, error: BaseException, *, is_json: bool = False) -> int:
    """Say which library is missing or broken, and how to get it."""
    library = _library_of(error)
    what = f"the Python library {library}" if library else "a part of textgate or of Python"
    message = f"{what} can't be loaded"
    hint = f"apt install --reinstall {LIBRARIES.get(library, 'textgate')}"
    if program == "textgate":
        hint += "; textgate pam disable, pam status and pam confirm work without it"
    if is_json:
        rescue.tell(printable_json({"error": {"message": message, "hint": hint}}))
    else:
        rescue.tell(f"{program}: error: {message}\nhint: {hint}", sys.stderr, has_lines=True)
    return ExitCode.FAILURE


def _is_of_loading(error: BaseException) -> bool:
    """Whether it was raised while a module was being loaded, by a command too that loads one when it is called."""
    if isinstance(error, ImportError | SyntaxError):
        return True
    modules = [frame for frame in _frames(error) if frame.f_code.co_name == "<module>"]
    return any(frame.f_globals.get("__name__") != "__main__" for frame in modules)


def _library_of(error: BaseException) -> str:
    """The library that an error is about: the one that is not found, or whose own code it comes from; "" for none."""
    names = [str(getattr(error, "name", None) or "")]
    if isinstance(error, SyntaxError):  # it names the file
        names += [Path(part).stem for part in reversed(Path(error.filename or "").parts)]
    modules = [str(frame.f_globals.get("__name__", "")) for frame in _frames(error)]
    names += itertools.takewhile(lambda name: not name.startswith("textgate"), modules)
    return next((name for name in (one.partition(".")[0] for one in names) if name in LIBRARIES), "")


def _frames(error: BaseException) -> list[FrameType]:
    """What it came through, innermost first."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames[::-1]
