"""Writing an SAE of any format in glasshouse's own, and proving that it is the same SAE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.saes import own_format
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.result_folder import check_folder
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.atomic import replacing

if TYPE_CHECKING:
    import torch

N_VECTORS = 256
SEED = 0


@dataclass(frozen=True)
class Conversion:
    """What was written, and what was compared: random vectors, and the codes that both gave for them."""

    file: Path
    n_vectors: int
    n_codes: int


def convert(
    sae: CommonSae, folder: Path, *, hook: str | None = None, tokens: str | None = None, encoder: str | None = None
) -> Conversion:
    """Write `sae.safetensors` into a folder.

    Args:
        sae: what to write.
        folder: made when it is not there.
        hook: hook point that it was trained on, where the checkpoint does not say it or says it otherwise.
        tokens: token policy, likewise.
        encoder: spec of the encoder, likewise.

    Raises:
        UsageError: the folder holds one already, is a file, or lies within a warehouse.
        ModelError: what was written does not read as the same SAE; nothing is left then.
    """
    check_folder(folder)
    file = folder / own_format.FILE_NAME
    if file.exists():
        raise UsageError(f"{file} exists. Choose another folder, or remove it first.")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        own_format.write(part, _tensors(sae), _description(sae, hook, tokens, encoder))
        n_codes = _compare(sae, own_format.load(part, sae.device, str(file)), file)
    return Conversion(file, N_VECTORS, n_codes)


def _tensors(sae: CommonSae) -> dict[str, torch.Tensor]:
    found = sae.form.tensors()
    return {name: found[attribute] for name, attribute in own_format.TENSOR_NAMES.items() if attribute in found}


def _description(sae: CommonSae, hook: str | None, tokens: str | None, encoder: str | None) -> dict[str, Any]:
    about, form = sae.about, sae.form
    origin = {"spec": sae.spec, "format": about["format"], "model": about.get("model"), "fingerprint": sae.fingerprint}
    description = {
        "format": 1,
        **form.settings(),
        "prefixes": list(sae.prefixes) if sae.prefixes else None,
        "hook": hook or sae.hook,
        "tokens": tokens or sae.tokens,
        "encoder": encoder or about.get("encoder"),
        "encoder_weights_sha256": None if encoder else about.get("encoder_weights_sha256"),
        "training": {**(about.get("training") or {}), "converted_from": origin},
        "self_test": about.get("self_test") or {},
        "notes": list(sae.notes),
    }
    needs_2 = own_format.SaeDescription.model_validate(description).needs_format_2 or form.center_d is not None
    return description | {"format": 2 if needs_2 else 1}


def _compare(sae: CommonSae, written: CommonSae, file: Path) -> int:
    """Encode and decode random vectors with both; the number of codes.

    Raises:
        ModelError: they differ.
    """
    import torch  # late: it takes a second to import

    vectors_nd = _vectors(sae)
    codes, again = sae.encode(vectors_nd), written.encode(vectors_nd)
    same = written.fingerprint == sae.fingerprint and all(map(torch.equal, codes, again))
    decoded_nd = sae.decode(codes, N_VECTORS, vectors_nd)
    if not same or not torch.equal(decoded_nd, written.decode(again, N_VECTORS, vectors_nd)):
        raise ModelError(f"{file}: what was written does not give the codes of {sae.spec}; nothing is kept.")
    return len(codes.value)


def _vectors(sae: CommonSae) -> torch.Tensor:
    """Random vectors [n, D]: half noise, half sums of a few features, so that codes are not all zero."""
    import torch  # late: it takes a second to import

    generator = torch.Generator().manual_seed(SEED)
    n_features = sae.n_features(sae.width)
    vectors_nd = torch.randn(N_VECTORS, sae.width, generator=generator)
    chosen = torch.randint(n_features, (N_VECTORS // 2, 4), generator=generator)
    weight = torch.rand(N_VECTORS // 2, 4, 1, generator=generator) * 10
    rows_fd = sae.form.w_dec_fd.cpu()
    vectors_nd[: N_VECTORS // 2] += (rows_fd[chosen] * weight).sum(dim=1) + sae.form.b_dec_d.cpu()
    vectors_nd = vectors_nd / sae.form.input_scale
    return vectors_nd if sae.form.center_d is None else vectors_nd + sae.form.center_d.cpu()
