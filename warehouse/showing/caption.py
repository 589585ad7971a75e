"""An image in words: its named concepts, each with where it is, as a sentence and as data.

Owns which concepts are told; `caption_places` says where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import UsageError, unknown_name
from glasshouse.schema.plain import plain
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.results.store import latest_run
from glasshouse.warehouse.showing.caption_places import Map, Place, is_on, is_place
from glasshouse.warehouse.showing.framing import grid_box
from glasshouse.warehouse.showing.gather import labels_of
from glasshouse.warehouse.showing.plain import shortened

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads

WEAK = 0.2
"""A concept is not told where it is below this share of its largest activation anywhere."""
SAME_PLACE = 0.5
"""Two concepts are at one place where the smaller has this share of its patches in the larger."""
N_CANDIDATES = 64
"""Features of an image that are looked at: those that it keeps in order."""


LONGEST = 80
"""Characters of a name that a sentence, a table and a picture show; JSON has all of it."""


class Name(NamedTuple):
    """What a feature is called, how sure the name is (cosine, None for labels), and its parent."""

    text: str
    score: float | None = None
    parent: int | None = None


@dataclass(frozen=True)
class Concept:
    """A concept that an image shows: a name, and where the features of that name are active.

    Attributes:
        feature_id: of the strongest feature of that name.
        name: of the feature.
        score: how well the name fits the feature, a cosine; None for labels.
        activation: its largest on the image.
        strength: that as a share of its largest on any image.
        region: where it is, e.g. `in the top left`.
        share: of the patches, 0..1.
        box: around all of it: left, top, right, bottom in pixels of the picture.
    """

    feature_id: int
    name: str
    score: float | None
    activation: float
    strength: float
    region: str
    share: float
    box: tuple[int, int, int, int]

    @property
    def short_name(self) -> str:
        """The name as one line of visible text, its middle left out where it is long."""
        return shortened(plain(self.name), LONGEST)


@dataclass(frozen=True)
class ImageCaption:
    """An image in words.

    Attributes:
        image_id: of the image.
        path: under which it was first seen.
        space: whose features speak.
        width: of the picture in pixels.
        height: of the picture in pixels.
        concepts: strongest first.
    """

    image_id: int
    path: str
    space: str
    width: int
    height: int
    concepts: list[Concept] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """The concepts as one sentence, those of one place together: `Red and star in the centre; grid all over.`"""
        by_region: dict[str, list[str]] = {}
        for concept in self.concepts:
            by_region.setdefault(concept.region, []).append(concept.short_name)
        text = "; ".join(f"{listed(names)} {region}" for region, names in by_region.items())
        return f"{text[0].upper()}{text[1:]}." if text else "No concept that has a name is strong here."

    def as_dict(self) -> dict[str, Any]:
        """Return the caption as plain data that JSON can hold."""
        return {"sentence": self.sentence, **asdict(self)}

    def __str__(self) -> str:
        return self.sentence


def listed(words: Sequence[str]) -> str:
    """Return words as English lists them: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def caption_of(warehouse: WarehouseReads, image_id: int, space: str | None = None, k: int = 6) -> ImageCaption:
    """Return the caption of an image.

    Args:
        warehouse: that is read.
        image_id: of the image.
        space: a patch space with names or labels; None where there is only one.
        k: how many concepts are told at most.

    Raises:
        UsageError: no such space, one without patches or names, the space does not cover the image, or k is below 1.
    """
    if k < 1:
        raise UsageError(f"k must be at least 1, not {k}.")
    space = chosen_space(warehouse, space)
    reader = warehouse.space(space)
    if image_id not in reader.image_ids():
        raise UsageError(
            f"The space '{space}' does not cover the image {image_id}. Run its `glasshouse extract` again."
        )
    record = warehouse.images().row(image_id, named=True)
    size = (int(record["width"]), int(record["height"]))
    strong = reader.features_of_image(image_id, N_CANDIDATES).select("feature_id", "value").rows()
    names = names_of(warehouse, space, [feature for feature, _ in strong])
    # Where things are is what the maps say; a concept that is named for a place is no thing to be told.
    names = {feature: name for feature, name in names.items() if not is_place(name.text)}
    maxima = reader.statistics()["max_value"]
    found = [(feature, value / maxima[feature]) for feature, value in strong if feature in names]
    found = sorted((pair for pair in found if pair[1] >= WEAK), key=lambda pair: (-pair[1], pair[0]))
    maps = maps_of(warehouse, space, image_id, [feature for feature, _ in found])
    place = Place(reader.grid or (1, 1), grid_box(reader.framing, *size), size)
    concepts: list[Concept] = []
    for group in told(found, names, maps)[:k]:
        feature, strength = group[0]
        region, share, box = place.of([maps[member] / maps[member].max() * strength for member, strength in group])
        name, activation = names[feature], float(maps[feature].max())
        concepts.append(Concept(feature, name.text, name.score, activation, strength, region, share, box))
    return ImageCaption(image_id, str(record["path"]), space, *size, concepts)


def chosen_space(warehouse: WarehouseReads, space: str | None) -> str:
    """Return the space that is meant.

    Raises:
        UsageError: it has no patches or names, or it is not clear which.
    """
    rows = warehouse.spaces().filter(state="ready").to_dicts()
    patches = [row["name"] for row in rows if row["grid_rows"] is not None]
    named = [name for name in patches if has_names(warehouse, name)]
    if space is None:
        if len(named) == 1:
            return str(named[0])
        if named:
            raise UsageError(f"Several spaces have names: {', '.join(named)}. Choose one with --space.")
        what = patches[0] if patches else None
        raise UsageError(
            f"No patch space has names yet. Run `glasshouse analyze names --space {what}`."
            if what
            else "A caption needs a space of patches. Extract one with `glasshouse extract … --tokens patches`."
        )
    if space not in [row["name"] for row in rows]:
        raise unknown_name("space", space, [row["name"] for row in rows])
    if space not in patches:
        raise UsageError(f"A caption needs patches, and the space '{space}' holds one vector per image.")
    if space not in named:
        raise UsageError(f"The features of '{space}' have no names. Run `glasshouse analyze names --space {space}`.")
    return space


def has_names(warehouse: WarehouseReads, space: str) -> bool:
    """Say whether features of a space were named or labelled."""
    return any(latest_run(warehouse.catalogue, analyzer, space) is not None for analyzer in ("names", "labels"))


def names_of(warehouse: WarehouseReads, space: str, features: Sequence[int]) -> dict[int, Name]:
    """Return the newest name of features, of those without one the newest label; the others are left out."""
    with warehouse.reading() as connection:
        found = {feature: Name(label) for feature, label in labels_of(connection, space, features).items()}
    run = latest_run(warehouse.catalogue, "names", space)
    if run is not None:
        rows = warehouse.result_rows(run).select("feature_id", "name", "score", "parent_feature_id").iter_rows()
        found |= {f: Name(name, score, parent) for f, name, score, parent in rows if f in set(features)}
    return found


def maps_of(warehouse: WarehouseReads, space: str, image_id: int, features: Sequence[int]) -> dict[int, Map]:
    """Return the token maps [rows, columns] of features on one image."""
    import pyarrow as pa

    reader = warehouse.space(space)
    rows, columns = reader.grid or (1, 1)
    maps = {feature: np.zeros(rows * columns, dtype=np.float32) for feature in features}
    pairs = pa.table(
        {"image_id": [image_id] * len(features), "feature_id": list(features)},
        schema=pa.schema([("image_id", pa.int32()), ("feature_id", pa.int32())]),
    )
    bounds = {"first": min(features, default=0), "last": max(features, default=0)}
    with reader.connection() as connection:
        connection.register("pairs", pairs)
        found = connection.sql(read_sql("queries/token_maps_of_pairs.sql"), params=bounds).fetchall()
    for _, feature, token, value in found:
        maps[feature][token] = value
    return {feature: map_t.reshape(rows, columns) for feature, map_t in maps.items()}


def told(
    found: Sequence[tuple[int, float]], names: Mapping[int, Name], maps: Mapping[int, Map]
) -> list[list[tuple[int, float]]]:
    """Return the features that are told, those of one name together, in their order: strongest first.

    A family at one place is told once, by its most specific member: a parent is left out where a child of it, or a
    child's child, is active at the same place.
    """
    active = {feature: is_on(maps[feature]) for feature, _ in found}
    implied = {feature: ancestors(feature, names) for feature, _ in found}
    groups: dict[str, list[tuple[int, float]]] = {}
    for feature, strength in found:
        if not any(feature in implied[other] and same_place(active[feature], active[other]) for other, _ in found):
            groups.setdefault(names[feature].text.casefold(), []).append((feature, strength))
    return list(groups.values())


def ancestors(feature: int, names: Mapping[int, Name]) -> set[int]:
    """Return the parents of a feature up to the root, as far as they are named; itself is none of them."""
    found: set[int] = set()
    parent = names[feature].parent
    while parent is not None and parent != feature and parent not in found:
        found.add(parent)
        parent = names[parent].parent if parent in names else None
    return found


def same_place(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> bool:
    """Say whether the smaller of two sets of patches lies mostly in the larger."""
    smaller = min(int(one.sum()), int(other.sum()))
    return bool((one & other).sum() >= SAME_PLACE * smaller) and smaller > 0
