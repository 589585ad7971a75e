"""How much the patches of an image belong together: affinities by which dense features are pooled (arXiv 2312.12359).

An affinity is the cosine of two patches' guides. Guides come from the last block of a DINO, without anything learned
on top, or from a convolution on features of the CLIP itself, which CLIP-DINOiser learned from the former.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.tapping import first_tensor
from glasshouse.plugins.saes.inert_pickle import load_tensors
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from glasshouse.plugins.encoders.hooked import HookedEncoder
    from glasshouse.plugins.encoders.maskclip import MaskClip

THRESHOLD = 0.2
"""Smaller affinities count as 0."""

EPSILON = 1e-6
MAX_AFFINITIES = 1 << 26
"""Affinities held at once, 4 bytes each, unless one image alone has more."""

By = Literal["keys", "patches"]
KEY_NAMES = ("k_proj", "key", "qkv")
"""Linear layers that make the keys, alone or with queries and values, by the libraries' names for them."""

FEATURES_BLOCK = -3
"""The learned convolution reads this block."""

NORM_NAMES = ("layernorm", "norm")
WEIGHT, BIAS = "obj_proj.weight", "obj_proj.bias"


def pooled(features_bte: torch.Tensor, guides_btc: torch.Tensor) -> torch.Tensor:
    """Pool features by affinities: F⁺ = A·F / (ΣA + 1e-6) with A = cosines of the guides, those below 0.2 set to 0.

    Args:
        features_bte: of patches, [batch, patches, E].
        guides_btc: what says which patches belong together, [batch, patches, C].

    Returns:
        float32 [batch, patches, E].
    """
    import torch  # late: it takes a second to import

    n_patches = features_bte.shape[1]
    at_once = max(1, MAX_AFFINITIES // n_patches**2)
    parts = []
    with torch.autocast(features_bte.device.type, enabled=False):  # bfloat16 would blur the threshold
        unit_btc = torch.nn.functional.normalize(guides_btc.float(), dim=2)
        for start in range(0, len(features_bte), at_once):
            some_btc = unit_btc[start : start + at_once]
            affinity_btt = some_btc @ some_btc.transpose(1, 2)
            affinity_btt = affinity_btt.masked_fill(affinity_btt < THRESHOLD, 0)
            total_bt1 = affinity_btt.sum(2, keepdim=True) + EPSILON
            parts.append(affinity_btt @ features_bte[start : start + at_once].float() / total_bt1)
        return torch.cat(parts)


class DinoGuide:
    """Guides from a block of a DINO.

    Args:
        encoder: a DINO, DINOv2 or other ViT of transformers or timm; its model is changed in place.
        images: the preprocessing of the images that come; it is undone before the DINO's own normalisation.
        grid: rows and columns of the CLIP's patches; the DINO sees each image at the size at which its own patches
            make the same grid.
        by: the block's `keys`, or the `patches` that it puts out; of the last block after the final norm.
        block: counted from the end, -1 being the last.

    Raises:
        ModelError: it is another kind of model.
    """

    def __init__(
        self, encoder: HookedEncoder, images: ImageTransform, grid: tuple[int, int], by: By = "keys", block: int = -1
    ) -> None:
        tower = encoder.tower
        blocks = [tap for name, tap in tower.taps.items() if name.endswith(".resid_post") and tap.grid]
        self._library = str(tower.architecture.get("library"))
        if not blocks or tower.embed_texts is not None or self._library not in ("transformers", "timm"):
            raise ModelError(
                f"{encoder.spec} gives no affinities. They come from a DINO, a DINOv2 or another ViT of transformers "
                "or timm, e.g. affinity=hf:facebook/dino-vitb16."
            )
        if not -len(blocks) <= block < 0:
            raise ModelError(f"{encoder.spec} has the blocks -1 to -{len(blocks)}, counted from the end, no {block}.")
        tap, own_size = blocks[block], tower.transform.output_size
        rows, columns = tap.grid or grid
        self.model: Any = tower.model
        self.size = (grid[0] * (own_size[0] // rows), grid[1] * (own_size[1] // columns))
        self._n_prefix, self._by = tap.n_prefix, by
        self._source = self._source_of(tap.module, encoder.spec, is_last=block == -1)
        self._scale, self._shift = _renormalisation(images, tower.transform)
        if self._library == "timm" and self.size != own_size:
            _resize_timm(tower.model, self.size, encoder.spec)
        self.description: dict[str, Any] = {
            "model": dict(tower.architecture), "normalisation": tower.transform.describe(), "by": by,
            "block": block, "size": list(self.size),
        }  # fmt: skip

    def _source_of(self, block: nn.Module, spec: str, *, is_last: bool) -> nn.Module:
        """The module whose output holds the guides."""
        if self._by == "patches" and not is_last:
            return block
        inside = {name.rpartition(".")[2]: module for name, module in block.named_modules()}
        norms = {name: getattr(self.model, name, None) for name in NORM_NAMES}
        named, names = (inside, KEY_NAMES) if self._by == "keys" else (norms, NORM_NAMES)
        found: nn.Module | None = next((named[name] for name in names if named.get(name) is not None), None)
        if found is None:
            other = "patches" if self._by == "keys" else "keys"
            raise ModelError(f"The {self._by} of {spec} are not found under a name that is known. Use by={other}.")
        return found

    @contextmanager
    def watching(self, batch_bchw: torch.Tensor) -> Iterator[Callable[[], torch.Tensor]]:
        """Give what returns the guides [b, patches, C] of preprocessed images [b, 3, H, W]."""
        yield lambda: self._guides(batch_bchw)

    def _guides(self, batch_bchw: torch.Tensor) -> torch.Tensor:
        import torch  # late: it takes a second to import

        scale_c11, shift_c11 = (
            torch.tensor(values, dtype=torch.float32, device=batch_bchw.device)[:, None, None]
            for values in (self._scale, self._shift)
        )
        images_bchw = batch_bchw * scale_c11 + shift_c11
        if tuple(images_bchw.shape[2:]) != self.size:
            images_bchw = torch.nn.functional.interpolate(
                images_bchw, size=self.size, mode="bicubic", align_corners=False, antialias=True
            )
        taken: list[Any] = []
        handle = self._source.register_forward_hook(lambda _module, _inputs, output: taken.append(output))
        try:
            self._run(images_bchw)
        finally:
            handle.remove()
        tokens_btc: torch.Tensor = first_tensor(taken[0])
        if self._by == "keys" and self._library == "timm":
            tokens_btc = tokens_btc.chunk(3, dim=2)[1]
        return tokens_btc[:, self._n_prefix :]

    def _run(self, images_bchw: torch.Tensor) -> None:
        if self._library == "timm":
            self.model.forward_features(images_bchw)
        elif self.model.config.model_type == "vit":  # the others interpolate their positions unasked
            self.model(pixel_values=images_bchw, interpolate_pos_encoding=True)
        else:
            self.model(pixel_values=images_bchw)


def _resize_timm(model: Any, size: tuple[int, int], spec: str) -> None:
    """Let timm interpolate the positions of a model to images of another size."""
    if not hasattr(model, "set_input_size"):
        raise ModelError(f"{spec} takes images of its own size only. Use a plain ViT, or the size that fits it.")
    model.set_input_size(img_size=size)


def _renormalisation(one: ImageTransform, other: ImageTransform) -> tuple[list[float], list[float]]:
    """Factor and summand of each channel that turn pixels normalised in one way into those of another."""
    ratio = other.rescale / one.rescale
    scale = [ratio * std_one / std for std_one, std in zip(one.std, other.std, strict=True)]
    means = zip(one.mean, other.mean, other.std, strict=True)
    return scale, [(ratio * mean_one - mean) / std for mean_one, mean, std in means]


class LearnedGuide:
    """Guides from the convolution of a CLIP-DINOiser checkpoint, on what a block's ln_2 puts out.

    Args:
        file: the checkpoint.
        maskclip: the CLIP that it was trained with.

    Raises:
        ModelError: the CLIP has too few blocks, or as `learned_convolution`.
    """

    def __init__(self, file: Path, maskclip: MaskClip) -> None:
        if len(maskclip.blocks) < -FEATURES_BLOCK:
            raise ModelError(f"CLIP-DINOiser reads block {FEATURES_BLOCK}, and this CLIP has {len(maskclip.blocks)}.")
        self.model = learned_convolution(file, maskclip.width)
        self._grid = maskclip.grid
        self._source: Any = maskclip.blocks[FEATURES_BLOCK].ln_2
        self.description: dict[str, Any] = {"kernel": list(self.model.kernel_size), "block": FEATURES_BLOCK}

    @contextmanager
    def watching(self, _batch_bchw: torch.Tensor) -> Iterator[Callable[[], torch.Tensor]]:
        """Give what returns the guides [b, patches, C], once the CLIP's pass has come far enough."""
        taken: list[torch.Tensor] = []
        handle = self._source.register_forward_hook(lambda _module, _inputs, output: taken.append(output))
        try:
            yield lambda: self._guides(taken[-1])
        finally:
            handle.remove()

    def _guides(self, tokens_btd: torch.Tensor) -> torch.Tensor:
        inner_bdhw = tokens_btd[:, 1:].transpose(1, 2).reshape(len(tokens_btd), -1, *self._grid)
        guides_btc: torch.Tensor = self.model(inner_bdhw).flatten(2).transpose(1, 2)
        return guides_btc


def learned_convolution(file: Path, width: int) -> nn.Conv2d:
    """Read the 3×3 convolution of a CLIP-DINOiser checkpoint; it repeats the edge outside of the image.

    Args:
        file: what `torch.save` wrote: {"model_state_dict": …} or a state dict, with `obj_proj.weight` [256, D, 3, 3]
            and `obj_proj.bias` [256]. Other tensors (`bkg_decoder`, for the background) are left out.
        width: D of the CLIP.

    Raises:
        ModelError: no such file, or it holds no such convolution.
    """
    import torch  # late: it takes a second to import

    content = load_tensors(file)
    if isinstance(content, dict) and isinstance(content.get("model_state_dict"), dict):
        content = content["model_state_dict"]
    tensors = content if isinstance(content, dict) else {}
    weight, bias = tensors.get(WEIGHT), tensors.get(BIAS)
    if not isinstance(weight, torch.Tensor) or not isinstance(bias, torch.Tensor) or weight.ndim != 4:
        names = ", ".join(sorted(str(name) for name in tensors)[:10]) or "none"
        raise ModelError(
            f"{file} has no {WEIGHT} and {BIAS}, so it is no checkpoint of CLIP-DINOiser; its names: {names}."
        )
    n_out, n_in, height, side = weight.shape
    if n_in != width or height != side or side % 2 == 0 or tuple(bias.shape) != (n_out,):
        raise ModelError(
            f"{file}: {WEIGHT} is {list(weight.shape)} and {BIAS} {list(bias.shape)}, but this CLIP is {width} wide. "
            "Use the CLIP that the checkpoint was trained with."
        )
    made = torch.nn.Conv2d(n_in, n_out, side, padding=side // 2, padding_mode="replicate")
    made.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return made
