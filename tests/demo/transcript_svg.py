# SPDX-License-Identifier: MIT
"""A recorded transcript of the demo as a picture of a terminal: `transcript_svg.py <transcript.txt >demo.svg`.

The same transcript always gives the same picture. Every piece of text is put on a grid and stretched to it, so that
boxes close whatever monospaced font the reader has; the picture loads nothing from elsewhere.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from xml.sax.saxutils import escape

COLUMNS = 92
CELL_WIDTH, CELL_HEIGHT, FONT_SIZE = 8.4, 19, 14
MARGIN, TITLE_HEIGHT = 18, 34
TITLE = "make demo"
COLOURS = {
    "plain": "#d8dee9",
    "bold": "#ffffff",
    "dim": "#7b88a1",
    "text": "#88c0d0",
    "good": "#a3be8c",
    "bad": "#e06c75",
}
_REMARK = re.compile(r"\s*← .*$")


def main() -> int:
    """Standard input to standard output."""
    sys.stdout.write(picture(sys.stdin.read()))
    return 0


def picture(transcript: str) -> str:
    """The SVG document. Raises ValueError for a transcript with control characters, such as colours."""
    if any(not character.isprintable() and character != "\n" for character in transcript):
        raise ValueError("the transcript holds control characters: record it without a terminal")
    rows = [row for line in transcript.rstrip("\n").split("\n") for row in wrapped(line)]
    width = round(2 * MARGIN + COLUMNS * CELL_WIDTH)
    height = TITLE_HEIGHT + 2 * MARGIN + len(rows) * CELL_HEIGHT
    body = "\n".join(element for number, row in enumerate(rows) for element in _row(number, *row))
    dots = "".join(f'<circle cx="{20 + 20 * n}" cy="17" r="6" fill="#4c566a"/>' for n in range(3))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{escape(TITLE)}: ssh and sudo with a texted code</title>
<rect width="{width}" height="{height}" rx="8" fill="#242933"/>
{dots}<text x="{width / 2:g}" y="22" fill="#7b88a1" font-family="sans-serif" font-size="13" \
text-anchor="middle">{escape(TITLE)}</text>
<g font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="{FONT_SIZE}">
{body}
</g>
</svg>
"""


def wrapped(line: str) -> Iterator[tuple[str, str]]:
    """The rows of a line on the screen, each with the line's style."""
    style = style_of(line)
    yield from ((row, style) for row in textwrap.wrap(line, COLUMNS, subsequent_indent="  ") or [""])


def style_of(line: str) -> str:
    """What kind of line it is: a command, a text's box, a remark, the last line, or what programs say."""
    if line.startswith("demo: "):
        return "good" if line.startswith("demo: proved") else "bad"
    if line.lstrip()[:1] in ("╭", "│", "╰"):
        return "text"
    if line.startswith("$ "):
        return "bold"
    return "dim" if line.startswith("A private world") else "plain"


def _row(number: int, text: str, style: str) -> Iterator[str]:
    """The text elements of one row: what stands there, and the remark behind it."""
    remark = _REMARK.search(text)
    cut = remark.start() if remark else len(text)
    for column, piece, colour in ((0, text[:cut], style), (cut, text[cut:], "dim")):
        shown = piece.strip()
        if shown:
            yield _text(number, column + len(piece) - len(piece.lstrip()), shown, colour)


def _text(row: int, column: int, text: str, style: str) -> str:
    x, y = MARGIN + column * CELL_WIDTH, TITLE_HEIGHT + MARGIN + row * CELL_HEIGHT
    weight = ' font-weight="bold"' if style in ("bold", "good", "bad") else ""
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{COLOURS[style]}"{weight} xml:space="preserve" '
        f'textLength="{len(text) * CELL_WIDTH:.1f}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
    )


if __name__ == "__main__":
    sys.exit(main())
