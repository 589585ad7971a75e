"""What the loaders of published formats share: finding a checkpoint's files, reading them, naming what is missing.

A name (what follows `SCHEME:`) is a local path, or ORG/NAME/PATH on the hub. Nothing here runs code of a checkpoint.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.hub import hub_errors
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch

COMPILED_PREFIX = "_orig_mod."
"""What torch.compile puts before every name of a state dict."""


def locate(scheme: str, name: str, place: str, files: Sequence[str] = ()) -> tuple[Path, str]:
    """Find a checkpoint: its local path, and its full spec.

    Args:
        scheme: of the spec.
        name: a local path, or ORG/NAME/PATH on the hub.
        place: what to do without a hub, for the message.
        files: names of the files in the folder that PATH (which may be empty) is; none when PATH is the file itself.

    Raises:
        ModelError: there is no such path, the name is none of the hub's, or the hub does not give the files.
    """
    path = Path(name).expanduser()
    if name and path.exists():
        return path.resolve(), f"{scheme}:{path.resolve()}"
    parts = name.split("/")
    if name.startswith((".", "/", "~")) or len(parts) < (2 if files else 3) or not all(parts):
        what, shape = ("folder", "ORG/NAME or ORG/NAME/FOLDER") if files else ("file", "ORG/NAME/FILE")
        raise ModelError(f"There is no {what} {name}, and a name on the hub reads {shape}. {place}")
    return _download(scheme, parts, place, files), f"{scheme}:{name}"


def _download(scheme: str, parts: Sequence[str], place: str, files: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download  # late: an eighth of a second

    repository, inner = "/".join(parts[:2]), list(parts[2:])
    with hub_errors(f"{scheme}:{'/'.join(parts)}", place):
        if not files:
            return Path(hf_hub_download(repository, "/".join(inner)))
        paths = [Path(hf_hub_download(repository, "/".join([*inner, file]))) for file in files]
        return paths[0].parent


def read_json(file: Path, whose: str) -> dict[str, Any]:
    """Read a configuration.

    Raises:
        ModelError: no such file, or no JSON object in it.
    """
    if not file.is_file():
        raise ModelError(f"There is no {file.name} in {file.parent}; {whose} checkpoints have one beside the weights.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no JSON object, so it is no configuration of {whose}.")
    return content


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a safetensors file.

    Raises:
        ModelError: no such file, or another kind of file.
    """
    import safetensors.torch  # late: it imports torch
    from safetensors import SafetensorError

    if not file.is_file():
        raise ModelError(f"There is no {file.name} in {file.parent}.")
    try:
        return dict(safetensors.torch.load_file(str(file)))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is no safetensors file: {error}.") from error


def state_dict(content: Any, file: Path, whose: str) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by name, without torch.compile's prefix.

    Raises:
        ModelError: it is something else.
    """
    import torch  # late: it takes a second to import

    if not isinstance(content, Mapping):
        raise ModelError(f"{file} holds no state dict, so it is no SAE of {whose}.")
    named = {str(name).removeprefix(COMPILED_PREFIX): value for name, value in content.items()}
    return {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}


def require(tensors: Mapping[str, Any], names: Sequence[str], file: Path, whose: str) -> None:
    """Check that tensors are there.

    Raises:
        ModelError: names those that are missing, and those that there are.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ModelError(
            f"{file} lacks the tensors {', '.join(missing)}, so it is no SAE of {whose}; "
            f"it has {', '.join(sorted(tensors)) or 'none'}."
        )


def transposed(tensors: Mapping[str, torch.Tensor], name: str, file: Path) -> torch.Tensor:
    """A matrix, transposed.

    Raises:
        ModelError: it is no matrix.
    """
    if tensors[name].ndim != 2:
        raise ModelError(f"{file}: {name} has shape {list(tensors[name].shape)}, which is no matrix.")
    return tensors[name].T


def number(value: Any, name: str, where: Path) -> float:
    """A finite number out of a tensor of one element, or out of JSON.

    Raises:
        ModelError: it is none.
    """
    import torch  # late: it takes a second to import

    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        said = list(value.shape) if isinstance(value, torch.Tensor) else value
        raise ModelError(f"{where}: {name} is {said}, not a finite number.")
    return float(value)


def count(value: Any, name: str, where: Path) -> int:
    """A whole number of at least 1, as `number`.

    Raises:
        ModelError: it is none.
    """
    found = number(value, name, where)
    if found < 1 or found != int(found):
        raise ModelError(f"{where}: {name} is {found:g}, not a whole number of at least 1.")
    return int(found)


def check_sizes(where: Path, config: str, said: Mapping[str, Any], found: Mapping[str, int]) -> None:
    """Compare what a configuration says with the tensors; what it leaves out is not compared.

    Raises:
        ModelError: they belong to different SAEs.
    """
    other = [f"{name} {value}" for name, value in said.items() if value is not None and value != found[name]]
    if other:
        truth = ", ".join(f"{name} {found[name]}" for name in said)
        raise ModelError(
            f"{where} has {truth}, but its {config} says {', '.join(other)}: they belong to different SAEs."
        )


def hook_of(name: Any) -> str | None:
    """A hook point in TransformerLens' names, as glasshouse calls it; other names are left as they are."""
    if not isinstance(name, str) or not name:
        return None
    if match := re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", name):
        return f"blocks.{match[1]}.resid_post"
    if (match := re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", name)) and int(match[1]) > 0:
        return f"blocks.{int(match[1]) - 1}.resid_post"
    if match := re.fullmatch(r"blocks\.(\d+)\.mlp\.hook_post", name):
        return f"blocks.{match[1]}.mlp"
    return name
