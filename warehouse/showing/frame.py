"""The frame of every page that is written: the report, the hierarchy, the audit.

Rules: a page needs nothing else, neither files nor a network nor scripts, and says so in its Content-Security-Policy;
it reads on a phone, on light and on dark.
"""

from __future__ import annotations

from glasshouse.warehouse.showing.fragments import STYLE
from glasshouse.warehouse.showing.plain import escape

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser may do with the page: show it."""

PAGE_STYLE = """
:root{color-scheme:light dark;--paper:#fbfbfa;--ink:#1c1c22;--line:#d9d9dd;--card:#fff;--accent:#8a1170}
@media(prefers-color-scheme:dark){:root{--paper:#16161a;--ink:#e6e6ea;--line:#37373f;--card:#1e1e24;--accent:#f08fc7}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2em 1em 4em;max-width:70em;background:var(--paper);color:var(--ink);
overflow-wrap:anywhere}
h1{font:600 1.7em/1.2 system-ui,sans-serif;margin:.3em 0}
h2{font:600 1.3em/1.2 system-ui,sans-serif;margin:2em 0 .5em;padding-top:.6em;border-top:1px solid var(--line)}
.gh h4{margin:1.4em 0 .4em;font-size:1.05em}
nav{margin:.6em 0}nav a{margin-right:1em}a{color:var(--accent)}
article{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7em .9em;margin:.6em 0}
article h3{margin-top:0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,29em),1fr));gap:.7em}
.cards article{margin:0}
.up{font-weight:600}.note{border-left:3px solid var(--accent);padding-left:.8em;margin:.7em 0}
.gh td{white-space:nowrap}.gh td:last-child{white-space:normal;min-width:12em}
.gh table{overflow-wrap:normal}
details summary{cursor:pointer;opacity:.75;font-size:.88em}
"""


def page(title: str, body: str, style: str = "") -> str:
    """Return a whole page.

    Args:
        title: text.
        body: HTML, every text in it escaped.
        style: CSS on top of the common one.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{STYLE}{PAGE_STYLE}{style}</style></head>"
        f'<body class="gh">{body}</body></html>\n'
    )
