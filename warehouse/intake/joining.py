"""Which picture a row of a table means: keys resolved by path, hash, file name, stem or number.

In this order, the first that finds something decides, and finding several pictures is never a choice made in
silence but a reason to reject the row:

1. the path as stored, or relative to the table's folder or to a folder that was added;
2. the SHA-256 of the file;
3. the longest end of the path (`a/b/x.jpg`, then `b/x.jpg`, then `x.jpg`), unless the folder that the key names was
   added and does not hold the file; then the same with case, surrounding spaces and Unicode composition ignored;
4. the same without the ending of the file name;
5. the stem as a number: 790 finds `000000000790.jpg`.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from glasshouse.warehouse.intake.paths import absolute, is_url, looks_like_image, restored

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"(\d+)(?:\.0+)?", re.ASCII)

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unjoined:
    """No picture for this key, and why."""

    reason: str


class _NameIndex:
    """Paths by their last part (file name or stem); finds those that agree on the longest end."""

    def __init__(self, entries: Iterable[tuple[Parts, int]], fold: Callable[[str], str]) -> None:
        self._fold = fold
        self._by_name: dict[str, list[tuple[Parts, int]]] = defaultdict(list)
        self._folders: dict[str, set[Parts]] = defaultdict(set)
        for parts, target in entries:
            folded = tuple(map(fold, parts))
            self._by_name[folded[-1]].append((folded, target))
            if len(folded) > 1:
                self._folders[folded[-2]].add(folded[:-1])

    def find(self, parts: Parts) -> set[int] | Unjoined:
        """Return every target whose path shares the longest end with `parts`; empty when no name is the same."""
        wanted = tuple(map(self._fold, parts))
        longest, found = 0, set[int]()
        for candidate, target in self._by_name.get(wanted[-1], ()):
            length = _shared_end(candidate, wanted)
            if length > longest:
                longest, found = length, set()
            if length == longest:
                found.add(target)
        folder = wanted[len(wanted) - longest - 1 : -1]
        if found and folder and self._is_known(folder):
            return Unjoined(f"the folder '{'/'.join(folder)}' was added, but holds no usable '{parts[-1]}'")
        return found

    def _is_known(self, folder: Parts) -> bool:
        return any(known[-len(folder) :] == folder for known in self._folders.get(folder[-1], ()))


class Joiner:
    """Resolves keys against the pictures of one warehouse. Answers are remembered.

    Args:
        root: the warehouse's folder.
        images: (stored path, image_id) for every row of `image_paths`.
        hashes: image_id by SHA-256 in lower-case hexadecimal.
        sources: what was given to `add`, as stored; the folders among it are places that keys may start from.
        failures: (stored path, reason) of files that could not be used, so that a row about one can say so.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[tuple[str, int]],
        hashes: dict[str, int],
        sources: Iterable[str] = (),
        failures: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._hashes = hashes
        self._failures = failures
        self._stored = dict(images)
        self._by_path = {restored(path, root): target for path, target in images}
        for position, (path, _reason) in enumerate(failures):
            self._by_path.setdefault(restored(path, root), -1 - position)
        self._paths_of: dict[int, list[str]] = defaultdict(list)
        for path, target in self._by_path.items():
            self._paths_of[target].append(path)
        above = _ancestors(self._by_path)
        folders = [restored(source, root) for source in dict.fromkeys(sources)]
        self._folders = [folder for folder in folders if folder in above]
        self._indexes: list[_NameIndex] | None = None
        self._numbers: dict[int, set[int]] = defaultdict(set)
        self._answers: dict[tuple[str, str], int | Unjoined] = {}

    def resolve(self, key: str, base: str = "") -> int | Unjoined:
        """Return the image_id that `key` means, or why there is none.

        Args:
            key: a path, URL, SHA-256, file name, stem or number, as written in the table.
            base: the absolute folder of the table; relative paths start there first.
        """
        answer = self._answers.get((key, base))
        if answer is None:
            answer = self._answers[key, base] = self._resolve(key, base)
        return answer

    def _resolve(self, key: str, base: str) -> int | Unjoined:
        forms = _forms(key)
        if not forms:
            return Unjoined("the row names no image")
        found = self._by_whole_path(forms, base)
        if not found and _SHA256.fullmatch(forms[-1].lower()):
            found = {self._hashes[sha256] for sha256 in (forms[-1].lower(),) if sha256 in self._hashes}
        if found:
            return self._answer(found, key)
        names, folded_names, stems, folded_stems = self._built_indexes()
        for index in (names, folded_names):
            for form in forms:
                ends = index.find(_parts(form))
                if ends:
                    return self._answer(ends, key)
        for index in (stems, folded_stems):
            for form in forms:
                ends = index.find(_without_ending(_parts(form)))
                if ends:
                    return self._answer(ends, key)
        number = _NUMBER.fullmatch(_without_ending(_parts(forms[-1]))[-1])
        return self._answer(self._numbers.get(int(number[1]), set()) if number else set(), key)

    def _by_whole_path(self, forms: Sequence[str], base: str) -> set[int]:
        """Return the picture at the path itself or in the table's folder, else all in folders that were added."""
        for form in forms:
            own = [self._stored.get(form), self._at(form), self._at(posixpath.join(base, form)) if base else None]
            nearest = next((target for target in own if target is not None), None)
            if nearest is not None:
                return {nearest}
            in_folders = {self._at(posixpath.join(folder, form)) for folder in self._folders} - {None}
            if in_folders:
                return {target for target in in_folders if target is not None}
        return set()

    def _at(self, path: str) -> int | None:
        return self._by_path.get(path if is_url(path) else posixpath.normpath(path))

    def _built_indexes(self) -> list[_NameIndex]:
        """Index by name and stem at the first key that is no path: most tables never need it."""
        if self._indexes is None:
            whole = [(_parts(path), target) for path, target in self._by_path.items()]
            stems = [((*parts[:-1], PurePosixPath(parts[-1].strip()).stem), target) for parts, target in whole]
            for parts, target in stems:
                if parts[-1].isascii() and parts[-1].isdigit():
                    self._numbers[int(parts[-1])].add(target)
            self._indexes = [_NameIndex(entries, fold) for entries in (whole, stems) for fold in (_as_it_is, _folded)]
        return self._indexes

    def _answer(self, found: set[int] | Unjoined, key: str) -> int | Unjoined:
        if isinstance(found, Unjoined):
            return found
        if not found:
            return Unjoined("no image has this path, file name, stem or hash")
        if len(found) > 1:
            return Unjoined(self._several(found, key))
        target = next(iter(found))
        if target < 0:
            return Unjoined(f"its picture could not be used: {self._failures[-1 - target][1]}")
        return target

    def _several(self, found: set[int], key: str) -> str:
        paths = sorted(self._paths_of[target][0] for target in found)
        ends = [_shortest_end(path, paths) for path in paths[:3]]
        more = ", …" if len(paths) > 3 else ""
        listing = f"{len(paths)} pictures fit '{key.strip()}' ({', '.join(ends)}{more})"
        return f"{listing}; write a longer path, e.g. '{ends[0]}'"


def _forms(key: str) -> list[str]:
    """List the ways to read a key: as it is, trimmed, with slashes for backslashes, without `./` and `..`."""
    trimmed = key.strip().strip("'\"").strip()
    if not trimmed:
        return []
    if is_url(trimmed):
        return list(dict.fromkeys([key, trimmed, absolute(trimmed)]))
    slashed = trimmed.replace("\\", "/")
    return [form for form in dict.fromkeys([key, trimmed, slashed, posixpath.normpath(slashed)]) if form != "."]


def _parts(path: str) -> Parts:
    """Split a path, or a URL without its query, at its slashes."""
    if is_url(path):
        address = urlsplit(path)
        path = f"{address.netloc}/{unquote(address.path)}"
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    return parts or (path,)


def _without_ending(parts: Parts) -> Parts:
    """Leave out the ending of a file name where it is one of a picture; `v1.2` is no `v1` with an ending."""
    name = parts[-1].strip()
    return (*parts[:-1], PurePosixPath(name).stem if looks_like_image(name) else name)


def _ancestors(paths: Iterable[str]) -> set[str]:
    """Return every folder that one of the paths lies in or below."""
    found: set[str] = set()
    for path in paths:
        folder = posixpath.dirname(path)
        while folder not in found:
            found.add(folder)
            folder = posixpath.dirname(folder)
    return found


def _shared_end(left: Parts, right: Parts) -> int:
    length = 0
    for one, other in zip(reversed(left), reversed(right), strict=False):
        if one != other:
            break
        length += 1
    return length


def _shortest_end(path: str, paths: Sequence[str]) -> str:
    """Return the shortest end of `path` that no other of `paths` ends with."""
    parts = _parts(path)
    for length in range(1, len(parts)):
        end = "/".join(parts[-length:])
        if sum(other == end or other.endswith("/" + end) for other in paths) == 1:
            return end
    return path


def _as_it_is(text: str) -> str:
    return text


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().casefold()
