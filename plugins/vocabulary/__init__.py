"""Words from files, and those that ship with glasshouse: vocabularies for labels, and lists of concepts for audits.

A vocabulary is a text file in UTF-8 with one word or short phrase per line. Blank lines and lines that begin with `#`
are no words; what comes twice counts once. Control and format characters (escapes of terminals,
marks that turn the direction of writing) are left out.
"""

from __future__ import annotations

import unicodedata
from importlib import resources
from pathlib import Path

from glasshouse.schema.errors import UsageError


def read_vocabulary(path: str | None) -> list[str]:
    """Return the words of a file in its order, or those that ship with glasshouse.

    Args:
        path: of a text file, or None for the words that ship with glasshouse.

    Raises:
        UsageError: the file is missing, is no UTF-8 text, or has no words.
    """
    text = (resources.files(__name__) / "words.txt").read_text(encoding="utf-8") if path is None else _read(Path(path))
    lines = (_visible(line) for line in text.splitlines())
    words = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not words:
        raise UsageError(f"The vocabulary {path} has no words. Write one word or short phrase per line.")
    return words


def concept_lists() -> list[str]:
    """Return the names of the lists of concepts that ship with glasshouse, for `audit`."""
    folder = resources.files(__name__) / "concepts"
    return sorted(file.name.removesuffix(".txt") for file in folder.iterdir() if file.name.endswith(".txt"))


def shipped_concepts(name: str) -> list[str]:
    """Return the concepts of one of `concept_lists()`."""
    with resources.as_file(resources.files(__name__) / "concepts" / f"{name}.txt") as path:
        return read_vocabulary(str(path))


def _visible(line: str) -> str:
    """Return a line without control and format characters, which would end up in labels; white space is one blank."""
    return " ".join("".join(c for c in line if c.isspace() or unicodedata.category(c)[0] != "C").split())


def _read(path: Path) -> str:
    """Read a file of the user's; a byte-order mark at its start is dropped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = "There is no file" if isinstance(error, FileNotFoundError) else "Could not read"
        raise UsageError(f"{reason} {path}. A vocabulary is a text file with one word per line.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The vocabulary {path} is no UTF-8 text. Save it as UTF-8, one word per line.") from error
    if "\0" in text:
        raise UsageError(f"The vocabulary {path} is no text. Give a text file with one word per line.")
    return text
