"""Local files and folders as SAE specs: what lies there says which format it is."""

from __future__ import annotations

from pathlib import Path

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import SaeLoader
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.saes import prisma
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.schema.errors import ModelError


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `local`, the scheme of specs that are a path."""
    register("local", SaeLoader(load, "a folder or file in glasshouse's own format (sae.safetensors) or in Prisma's"))


def load(name: str, device: str) -> CommonSae:
    """Load the SAE that lies at the path `name`.

    Raises:
        ModelError: nothing is there, or nothing that is known; says what was looked for.
    """
    from glasshouse.plugins.saes import own_format  # late: it brings pydantic

    path = Path(name).expanduser().resolve()
    looked_for = (
        "An SAE is sae.safetensors in glasshouse's own format, or Prisma's config.json with weights.pt or "
        "n_images_<N>.pt. Other formats are named by their scheme, e.g. --sae prisma:ORG/NAME."
    )
    if not path.exists():
        raise ModelError(f"There is no file or folder {path}. {looked_for}")
    if path.suffix == ".safetensors" or (path / own_format.FILE_NAME).is_file():
        return own_format.load(path, device, str(path))
    if path.suffix == ".pt" or prisma.weight_files(path):
        return prisma.load_path(path, device, str(path))
    raise ModelError(f"{path} holds no SAE that is known. {looked_for}")
