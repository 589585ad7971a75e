"""A hierarchy as GraphML (http://graphml.graphdrawing.org), for Gephi, yEd, networkx and the like."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

from glasshouse.schema.plain import plain
from glasshouse.warehouse.showing.hierarchy import EVIDENCE

if TYPE_CHECKING:
    from glasshouse.warehouse.showing.hierarchy import FeatureHierarchy

NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_NODE_KEYS = {"feature_id": "int", "name": "string", "n_images": "int", "n_patches": "int",
              "nearly_everywhere": "boolean", "depth": "int"}  # fmt: skip
_EDGE_KEYS = {"kind": "string", "is_tree_edge": "boolean", **dict.fromkeys(EVIDENCE, "double"), "n_both": "long"}


def graphml(hierarchy: FeatureHierarchy) -> str:
    """Return the shown features and the direct edges among them, child to parent; duplicates as undirected edges."""
    ET.register_namespace("", NAMESPACE)
    root = ET.Element(_tag("graphml"))
    for prefix, owner, keys in (("n", "node", _NODE_KEYS), ("e", "edge", _EDGE_KEYS)):
        for name, kind in keys.items():
            given = {"id": f"{prefix}_{name}", "for": owner, "attr.name": name, "attr.type": kind}
            ET.SubElement(root, _tag("key"), given)
    data = hierarchy.as_dict()
    graph = ET.SubElement(root, _tag("graph"), {"id": "hierarchy", "edgedefault": "directed"})
    for feature in data["features"]:
        node = ET.SubElement(graph, _tag("node"), {"id": f"f{feature['feature_id']}"})
        _fill(node, "n", {name: feature[name] for name in _NODE_KEYS})
    for edge in data["edges"]:
        element = ET.SubElement(graph, _tag("edge"), {"source": f"f{edge['child']}", "target": f"f{edge['parent']}"})
        _fill(element, "e", {name: edge.get(name) for name in _EDGE_KEYS})
    for one, other in data["same"]:
        if {one, other} <= hierarchy.shown:
            ends = {"source": f"f{one}", "target": f"f{other}", "directed": "false"}
            _fill(ET.SubElement(graph, _tag("edge"), ends), "e", {"kind": "same", "is_tree_edge": False})
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _fill(element: ET.Element, prefix: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is not None:
            ET.SubElement(element, _tag("data"), {"key": f"{prefix}_{name}"}).text = _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # XML has no place for the last two characters of the first plane, which are no control characters.
    return plain(value).replace("\ufffe", "").replace("\uffff", "")
