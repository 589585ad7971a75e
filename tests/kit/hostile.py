"""Text as an attacker would write it into captions, labels, paths and columns."""

HOSTILE = "<script>alert(1)</script>\"' onload=x [bold]red[/bold] \x1b[31mred\x1b[0m \u202edne <b>"
"""Markup for a page, for rich and for a terminal, in one text; \\u202e turns the direction of writing."""

HOSTILE_FILE = "a'\"><img src=x onerror=alert(1)>[bold].png"
