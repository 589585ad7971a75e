"""Local folders as encoder specs: what lies there says which library reads it."""

from __future__ import annotations

import json
from pathlib import Path

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader
from glasshouse.plugins.encoders import open_clip, timm, transformers
from glasshouse.plugins.encoders.hooked import HookedEncoder
from glasshouse.plugins.hookspecs import Register
from glasshouse.schema.errors import ModelError

LOOKED_FOR = (
    f"An encoder's folder holds {open_clip.CONFIG_FILE} (open_clip), or config.json with 'architectures' "
    "(transformers) or 'architecture' (timm)."
)


@hookimpl
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register `local`, the scheme of specs that are a path."""
    register("local", EncoderLoader(load, "a folder of open_clip, transformers or timm, e.g. ./my-clip"))


def load(name: str, device: str) -> HookedEncoder:
    """Load the encoder in the folder `name`.

    Raises:
        ModelError: nothing is there, or nothing that is known; says what was looked for.
    """
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}. {LOOKED_FOR}")
    if (folder / open_clip.CONFIG_FILE).is_file():
        return open_clip.load_folder(folder, device, str(folder))
    keys = _config_keys(folder / "config.json")
    if "architecture" in keys:
        return timm.load_folder(folder, device, str(folder))
    if "architectures" in keys or "model_type" in keys:
        return transformers.load_folder(folder, device, str(folder))
    raise ModelError(f"{folder} holds no encoder that is known. {LOOKED_FOR}")


def _config_keys(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is no JSON: {error}.") from error
    return set(config) if isinstance(config, dict) else set()
