"""Checkpoints of a training: one safetensors file that is replaced whole, and a line of JSON per measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from glasshouse.schema.errors import UsageError, WarehouseError
from glasshouse.warehouse.atomic import replacing

if TYPE_CHECKING:
    import torch

FILE_NAME = "checkpoint.safetensors"
CURVES_NAME = "curves.jsonl"
_KEY = "glasshouse_training"


class Checkpoint(NamedTuple):
    """A training between two steps: its tensors, plain values, and the settings that it belongs to."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]
    identity: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint.

    Raises:
        OSError: it cannot be written; the one before is still there.
    """
    import safetensors.torch  # late: it takes a second to import

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = json.dumps({"values": checkpoint.values, "identity": checkpoint.identity})
    # As bytes, so that a full disk is the system's own error and not the library's.
    content = safetensors.torch.save(tensors, {_KEY: header})
    with replacing(folder / FILE_NAME) as temporary:
        temporary.write_bytes(content)


def load(folder: Path) -> Checkpoint | None:
    """Read the folder's checkpoint; None when there is none.

    Raises:
        WarehouseError: it cannot be read.
    """
    import safetensors  # late: it takes a second to import
    import safetensors.torch

    file = folder / FILE_NAME
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(str(file), framework="pt") as opened:
            header = json.loads((opened.metadata() or {})[_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return Checkpoint(tensors, header["values"], header["identity"])
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise WarehouseError(f"{file} cannot be read as a checkpoint: {error}. Remove it to begin anew.") from error


def check_same(there: Mapping[str, Any], here: Mapping[str, Any], what: str) -> None:
    """Compare the settings of what lies in a folder with those that are asked for.

    Raises:
        UsageError: they differ; the message says in what.
    """
    names = [name for name in here if there.get(name) != here[name]]
    if names:
        listing = ", ".join(f"{name} {_short(there.get(name))} there and {_short(here[name])} here" for name in names)
        raise UsageError(
            f"{what} is of another training: {listing}. Give what it was begun with to go on, choose another --out, or "
            "remove it to begin anew."
        )


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def write_curves(folder: Path, curves: Sequence[Mapping[str, Any]]) -> None:
    """Write the measurements so far, one line of JSON each."""
    with replacing(folder / CURVES_NAME) as temporary:
        temporary.write_text("".join(json.dumps(point) + "\n" for point in curves), encoding="utf-8")
