"""Local files and folders as SAE specs: what lies there says which format it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import SaeLoader
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.saes import dictionary_learning, msae, prisma, saelens, saev
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.schema.errors import ModelError

FORMATS: tuple[tuple[Callable[[Path], bool], Callable[[Path, str, str], CommonSae]], ...] = (
    (saelens.holds, saelens.load_path),
    (dictionary_learning.holds, dictionary_learning.load_path),
    (msae.holds, msae.load_path),
    (saev.holds, saev.load_path),
)
"""Those that can be told by names and first bytes, and how each is loaded."""

LOOKED_FOR = (
    "An SAE is sae.safetensors in glasshouse's own format, Prisma's config.json with weights.pt or n_images_<N>.pt, "
    "SAELens' cfg.json with sae_weights.safetensors, dictionary_learning's config.json with ae.pt, a file of saev's "
    "or of MSAE's. Others are named by their scheme, e.g. --sae overcomplete:FILE or --sae prisma:ORG/NAME."
)


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `local`, the scheme of specs that are a path."""
    register("local", SaeLoader(load, "a folder or file in glasshouse's own format (sae.safetensors) or a known one"))


def load(name: str, device: str) -> CommonSae:
    """Load the SAE that lies at the path `name`.

    Only formats that show by their names and first bytes are found; overcomplete's state dicts do not.

    Raises:
        ModelError: nothing is there, or nothing that is known; says what was looked for.
    """
    from glasshouse.plugins.saes import own_format  # late: it brings pydantic

    path = Path(name).expanduser().resolve()
    if not path.exists():
        raise ModelError(f"There is no file or folder {path}. {LOOKED_FOR}")
    # One that was converted in place lies beside what it was made from, and is the one that is meant.
    if (path / own_format.FILE_NAME).is_file():
        return own_format.load(path, device, str(path))
    for holds, load_path in FORMATS:
        if holds(path):
            return load_path(path, device, str(path))
    if path.suffix == ".safetensors":
        return own_format.load(path, device, str(path))
    if path.suffix == ".pt" or prisma.weight_files(path):
        return prisma.load_path(path, device, str(path))
    raise ModelError(f"{path} holds no SAE that is known. {LOOKED_FOR}")
