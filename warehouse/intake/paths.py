"""How paths are written down: posix, absolute, but relative to the warehouse when inside it; URLs as they are.

`root / stored` is therefore right for both. Symbolic links are kept as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")

_IMAGES = """
    .jpg
    .jpeg
    .jpe
    .jfif
    .png
    .apng
    .gif
    .webp
    .bmp
    .dib
    .tif
    .tiff
    .ppm
    .pgm
    .pbm
    .pnm
    .jp2
    .j2k
    .avif
    .ico
    .tga
    .heic
    .heif
    .hdr
    .exr
    .qoi
    .psd
    .pcx
    .sgi
"""

IMAGE_EXTENSIONS = frozenset(_IMAGES.split())
"""File name endings that speak of a picture. What a file really is, only its bytes tell."""


def is_url(path: str) -> bool:
    """Return True for `scheme://…`, `file://` included."""
    return _URL.match(path) is not None


def is_web_address(path: str) -> bool:
    """Return True for http and https."""
    return path.lower().startswith(("http://", "https://"))


def absolute(path: str | Path) -> str:
    """Return an absolute posix path without `.` and `..`; a URL as it is, a `file://` URL as its path."""
    text = os.fspath(path)
    if text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path)
    return text if is_url(text) else Path(os.path.abspath(text)).as_posix()


def stored(path: str, root: Path) -> str:
    """Write an absolute path or URL as the catalogue holds it."""
    if is_url(path):
        return path
    prefix = absolute(root) + "/"
    return path.removeprefix(prefix)


def restored(path: str, root: Path) -> str:
    """Return the absolute path, or URL, of a stored one."""
    return path if is_url(path) else absolute(root / path)


def extension(path: str) -> str:
    """Return the lower-case ending of a path or URL (query left off), with its dot; '' where there is none."""
    name = urlsplit(path).path if is_url(path) else path
    return PurePosixPath(name.replace("\\", "/").strip()).suffix.lower()


def looks_like_image(path: str) -> bool:
    """Return True when the ending of a path or URL speaks of a picture."""
    return extension(path) in IMAGE_EXTENSIONS


def encodable(text: str) -> str:
    r"""Return text that can be stored: bytes of a file name that are no UTF-8 are written as `\xNN`."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a surrogate pair, as JSON can spell it
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def choose_root(names: Sequence[str], candidates: Iterable[str], n_probes: int = 50) -> str:
    """Return the candidate folder that holds most of a sample of `names`; the first one on a tie."""
    step = max(1, len(names) // n_probes)
    sample = [name for name in names[::step] if name.strip()][:n_probes]
    best, best_hits = "", -1
    for folder in dict.fromkeys(candidates):
        hits = sum(_is_file(os.path.join(folder, name.strip())) for name in sample)  # noqa: PTH118
        if hits > best_hits:
            best, best_hits = folder, hits
        if sample and hits == len(sample):
            break
    return best


def likely_roots(folder: str, hint: str = "") -> list[str]:
    """List where the pictures of a table or COCO file in `folder` may be, most likely first.

    Its own folder, `images/` in it, `../`, `../images/`, a sibling folder that the file's name `hint` ends with
    (`annotations/instances_val2017.json` beside `val2017/`), then all other folders beside and above it.
    """
    own, parent = Path(folder), Path(folder).parent
    below, beside = _folders(own), _folders(parent)
    named = [path for path in [*below, *beside] if hint.endswith(path.name)]
    usual = [own, own / "images", *named, parent, parent / "images"]
    return [path.as_posix() for path in [*usual, *below, *beside, Path.cwd()]]


def _folders(folder: Path, limit: int = 100) -> list[Path]:
    try:
        found = sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []
    return found[:limit]


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)  # noqa: PTH113
    except ValueError:  # a null character in the name
        return False
