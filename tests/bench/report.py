# SPDX-License-Identifier: MIT
"""Results as Markdown: tables for the terminal, for build/bench and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import login_path


def tables(result: dict[str, Any]) -> str:
    """All tables of a result."""
    writers = {
        "machine": _machine, "login_path": _login_path, "daemon_load": _daemon_load, "daemon_profile": _profile,
        "silence": _silence,
    }  # fmt: skip
    lines = [line for name, write in writers.items() if result.get(name) for line in write(result[name])]
    return "\n".join(lines) + "\n"


def _machine(machine: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_mib']} MiB; {machine['system']}, "
        f"kernel {machine['kernel']}, Python {machine['python']}; load average {machine['load_before']} before"
    )
    yield ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    yield ""


def _login_path(part: dict[str, Any]) -> Iterator[str]:
    yield f"### One PAM authentication (median of {part['rounds']} rounds ± median absolute deviation)"
    yield ""
    yield from _table(
        (
            "stack",
            "wall ms",
            "CPU ms",
            "wall over permit",
            "CPU over permit",
            "× bare pair, wall",
            "× bare pair, CPU",
        ),
        (_stack_row(row) for row in part["stacks"].values()),
    )
    ours, bar = part["stacks"][login_path.OURS], part["bar_ratio"]
    for kind in ("cpu", "wall"):
        ratio = ours[kind]["ratio"]["value"]
        yield _verdict(ratio <= bar, f"helper pair: {ratio:.3f} × two bare Pythons ({kind}), at most {bar:.2f}")
    real = part["stacks"]["textgate"]
    yield f"such a login costs textgated {real['daemon_cpu_ms']:.2f} ms of CPU, Redis {real['redis_cpu_ms']:.2f} ms"
    yield ""


def _stack_row(row: dict[str, Any]) -> tuple[str, ...]:
    wall, cpu = row["wall"], row["cpu"]
    return (
        row["what"],
        *(f"{kind['median_ms']:.2f} ± {kind['mad_ms']:.2f}" for kind in (wall, cpu)),
        *(f"{kind['over_permit_ms']:.2f}" for kind in (wall, cpu)),
        *("{value:.2f} ({low:.2f}–{high:.2f})".format(**kind["ratio"]) for kind in (wall, cpu)),
    )


def _daemon_load(part: dict[str, Any]) -> Iterator[str]:
    yield f"### textgated under load (median of {part['rounds']} × {part['seconds']:g} s)"
    yield ""
    yield from _table(
        ("gateway", "at once", "logins/s", "lowest–highest", "begin p50", "begin p99", "check p50", "check p99",
         "CPU ms a login", "daemon's cores", "Redis CPU ms", "load CPU ms"),
        (_cell_row(cell) for cell in part["cells"]),
    )  # fmt: skip
    yield (
        f"memory: {part['rest_mib']:.1f} MiB at rest, {part['rest_after_first_logins_mib']:.1f} after the first "
        f"logins, {part['rest_after_load_mib']:.1f} after the load, {part['peak_mib']:.1f} at most"
    )
    bars = part["bars"]
    for cell in part["cells"]:
        if cell["concurrency"] == 64:
            yield from _cell_verdicts(cell, bars)
    yield _verdict(
        part["rest_mib"] <= bars["rest_mib"], f"{part['rest_mib']:.1f} MiB at rest, at most {bars['rest_mib']:g}"
    )
    yield ""


def _cell_verdicts(cell: dict[str, Any], bars: dict[str, float]) -> Iterator[str]:
    name = f"64 at once, gateway of {cell['gateway_ms']} ms"
    rate, cpu_ms, p99_ms = cell["logins_per_s"], cell["cpu_ms_per_login"]["daemon"], cell["check_ms"]["p99"]
    at_least, at_most_ms, p99_at_most_ms = bars["logins_per_s"], bars["cpu_ms"], bars["check_p99_ms"]
    yield _verdict(rate >= at_least, f"{name}: {rate:.0f} logins/s, at least {at_least}")
    yield _verdict(cpu_ms <= at_most_ms, f"{name}: {cpu_ms:.2f} ms of CPU a login, at most {at_most_ms:g}")
    yield _verdict(p99_ms <= p99_at_most_ms, f"{name}: check p99 {p99_ms:.1f} ms, at most {p99_at_most_ms:g}")


def _cell_row(cell: dict[str, Any]) -> tuple[str, ...]:
    cpu = cell["cpu_ms_per_login"]
    return (
        f"{cell['gateway_ms']} ms",
        str(cell["concurrency"]),
        f"{cell['logins_per_s']:.0f}",
        f"{cell['logins_per_s_lowest']:.0f}–{cell['logins_per_s_highest']:.0f}",
        *(f"{cell[step][share]:.1f}" for step in ("begin_ms", "check_ms") for share in ("p50", "p99")),
        f"{cpu['daemon']:.2f}",
        f"{cell['daemon_cores']:.2f}",
        f"{cpu['redis']:.2f}",
        f"{cpu['load']:.2f}",
    )


def _profile(part: dict[str, Any]) -> Iterator[str]:
    at_once, samples = part["concurrency"], part["samples"]
    yield f"### Where textgated's time goes ({samples} samples, {at_once} logins at once, gateway of 0 ms)"
    for title, key in (("a function with all that it calls", "inclusive"), ("with libraries, without ours", "own")):
        yield ""
        yield from _table(("share", title), ((f"{share:.1f} %", name) for name, share in part[key].items()))


def _silence(part: dict[str, Any]) -> Iterator[str]:
    rounds, gateway_ms, bar_ms = part["rounds"], part["gateway_ms"], part["bar_ms"]
    yield f"### What the time of an answer tells (median of {rounds} rounds, gateway of {gateway_ms:g} ms)"
    yield ""
    for step, sorts in part["steps"].items():
        yield from _table(
            (step, "ms", "over an ordinary user, ms (95 % of resamples)"),
            (
                (
                    sort,
                    f"{row['median_ms']:.2f} ± {row['mad_ms']:.2f}",
                    "{value:+.2f} ({low:+.2f} to {high:+.2f})".format(**row["over_ordinary_ms"]),
                )
                for sort, row in sorts.items()
            ),
        )
        over = [row["over_ordinary_ms"] for row in sorts.values()]
        largest_ms = max(abs(one["value"]) for one in over)
        # Missed where even the near end of an interval lies beyond the bar: what is within is the machine's noise.
        is_met = all(one["low"] <= bar_ms and one["high"] >= -bar_ms for one in over)
        yield _verdict(is_met, f"{step}: sorts differ by {largest_ms:.2f} ms, at most {bar_ms:g} beyond the noise")
    yield ""


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """A Markdown table whose columns also line up as plain text."""
    cells = [tuple(head), *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for number, row in enumerate(cells):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if number == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    yield ""


def _verdict(is_met: bool, what: str) -> str:
    return f"{'PASS' if is_met else 'MISS'}  {what}"
