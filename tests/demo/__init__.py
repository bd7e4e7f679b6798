# SPDX-License-Identifier: MIT
"""`make demo`: two logins with a texted code, in a private world, seen at a terminal or played by itself.

    outside    on the machine: makes the world, looks whether anything stayed behind, says the last line
    inside     in the world: starts the parts, lets a person (tmux) or itself (player) log in, collects the facts
    screen     what is shown: colours, boxes, the words of introduction
    transcript_svg    a recorded transcript as a picture for the README

It needs Debian's own packages only, no virtual environment.
"""
