"""The arithmetic of an SAE in the common form (`form.py`).

D is the hook's width, F the number of features. In this order:
    −center, ·scale → normalise → −b_dec (when `apply_b_dec_to_input`) → @W_enc + b_enc → activation → soft cap
    → @W_dec + b_dec → undo what normalised → /scale, +center.
Codes are sparse and positive; the dense [n, F] block exists for a few rows at a time only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.devices import torch_device
from glasshouse.plugins.fingerprint import fingerprint
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.saes.sparse import joined, keep, sparse_codes, sparse_product
from glasshouse.schema.errors import ModelError
from glasshouse.warehouse.contracts import SparseCodes

if TYPE_CHECKING:
    import torch

LAYER_NORM_EPSILON = 1e-5
"""Added to the standard deviation, not to the variance: Prisma's rule."""

BLOCK_BYTES = 64 << 20
"""Size of one dense block of pre-activations: large enough for the matrix product to be worth it."""


class CommonSae:
    """A `SparseAutoencoder` in the common form, on one device. Safe to use from several threads.

    Attributes:
        spec: the name that loads it again.
        form: its tensors, on the device.
        prefixes: sizes of a Matryoshka dictionary's nested prefixes in rising order, or None.
        hook: the hook point that it was trained on, as its checkpoint says, or None.
        tokens: the tokens that it was trained on (`cls`, `patches`), as its checkpoint says, or None.
        notes: sentences about what its user should know, where the format has a trap.
        about: what the checkpoint says of itself, free of form; `format` is there always, `model` where it names one.
    """

    is_lossless = False

    def __init__(
        self,
        spec: str,
        form: CommonForm,
        device: str = "cpu",
        *,
        prefixes: Iterable[int] | None = None,
        hook: str | None = None,
        tokens: str | None = None,
        notes: Iterable[str] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        form.check(spec)
        self.spec = spec
        self.device = torch_device(device)
        self.form = CommonForm(**{**vars(form), **_placed(form.tensors(), self.device)})
        self.prefixes = tuple(prefixes) if prefixes else None
        self.hook = hook
        self.tokens = tokens
        self.notes = tuple(notes)
        self.about = {"format": "", **(about or {})}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over tensors and everything that changes their meaning."""
        return fingerprint(self.form.tensors(), self.form.settings())

    @property
    def width(self) -> int:
        """D, the hook width that it takes."""
        return int(self.form.w_enc_df.shape[0])

    def n_features(self, width: int) -> int:
        """F; `width` must be D.

        Raises:
            ModelError: the SAE was trained on another width.
        """
        self._check_width(width)
        return int(self.form.w_enc_df.shape[1])

    def encode(self, acts_nd: torch.Tensor) -> SparseCodes:
        """Codes of n activation vectors [n, D].

        Raises:
            ModelError: the vectors' width is not D.
        """
        import torch  # late: it takes a second to import

        self._check_width(acts_nd.shape[-1])
        n_rows, n_features = acts_nd.shape[0], self.form.w_enc_df.shape[1]
        n_block = min(max(1, BLOCK_BYTES // (4 * n_features)), max(n_rows, 1))
        with torch.no_grad():
            inputs_nd = self._inputs(acts_nd)
            # The same memory for all blocks: fresh pages cost as much as writing them, and freed ones are not
            # reused once the small arrays of codes have split them.
            pre_bf = torch.empty(n_block, n_features, device=self.device)
            active_bf = torch.empty(n_block, n_features, device=self.device, dtype=torch.bool)
            blocks = [
                self._encode_block(inputs_nd[start : start + n_block], start, pre_bf, active_bf)
                for start in range(0, n_rows, n_block)
            ]
        return joined(blocks)

    def decode(self, codes: SparseCodes, n_rows: int, acts_nd: torch.Tensor | None = None) -> torch.Tensor:
        """Reconstruction [n_rows, D] in the space of the encoder's activations.

        Args:
            codes: what `encode` returned.
            n_rows: number of rows that were encoded.
            acts_nd: the vectors that were encoded: a normalisation is undone with their mean and scale.

        Raises:
            ModelError: the SAE normalises its input and `acts_nd` is missing.
        """
        import torch  # late: it takes a second to import

        if self.form.normalization != "none" and acts_nd is None:
            raise ModelError(
                f"{self.spec} normalises every vector ({self.form.normalization}), so decoding needs the vectors "
                "that were encoded: pass them as `acts_nd`."
            )
        with torch.no_grad():
            decoded_nd = sparse_product(codes, n_rows, self.form.w_dec_fd) + self.form.b_dec_d
            if self.form.normalization != "none" and acts_nd is not None:
                shift_n1, scale_n1 = self._shift_and_scale(self._scaled(acts_nd.to(self.device, torch.float32)))
                decoded_nd = (decoded_nd * scale_n1 + shift_n1).float()
            if self.form.input_scale != 1.0:
                decoded_nd = decoded_nd / self.form.input_scale
            return decoded_nd if self.form.center_d is None else decoded_nd + self.form.center_d

    def _check_width(self, width: int) -> None:
        if width != self.width:
            raise ModelError(
                f"{self.spec} takes vectors of width {self.width}, the hook point has width {width}. "
                f"Use a hook point of width {self.width}{f', such as {self.hook}' if self.hook else ''}, or an SAE "
                "that was trained on this one."
            )

    def _inputs(self, acts_nd: torch.Tensor) -> torch.Tensor:
        """What is multiplied by W_enc: normalised, and without b_dec where the format says so."""
        import torch  # late: it takes a second to import

        inputs_nd = self._scaled(acts_nd.detach().to(self.device, torch.float32))
        if self.form.normalization != "none":
            shift_n1, scale_n1 = self._shift_and_scale(inputs_nd)
            # Prisma adds the epsilon on the way in only.
            epsilon = LAYER_NORM_EPSILON if self.form.normalization == "layer_norm" else 0.0
            inputs_nd = ((inputs_nd - shift_n1) / (scale_n1 + epsilon)).float()
        if self.form.apply_b_dec_to_input:
            inputs_nd = inputs_nd - self.form.b_dec_d
        return inputs_nd

    def _scaled(self, acts_nd: torch.Tensor) -> torch.Tensor:
        """The vectors without the data set's mean, times its scale."""
        if self.form.center_d is not None:
            acts_nd = acts_nd - self.form.center_d
        return acts_nd if self.form.input_scale == 1.0 else acts_nd * self.form.input_scale

    def _shift_and_scale(self, acts_nd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalisation of each row as (x − shift)/scale, both [n, 1].

        In double precision: a row without variance would otherwise be divided by the rounding error of its mean. A
        row of zeros has no norm to rescale; it stays zero.
        """
        import torch  # late: it takes a second to import

        acts_nd = acts_nd.double()
        if self.form.normalization == "layer_norm":
            mean_n1 = acts_nd.mean(1, keepdim=True)
            variance_n1 = (acts_nd - mean_n1).square().sum(1, keepdim=True) / (acts_nd.shape[1] - 1)
            return mean_n1, variance_n1.sqrt()
        scale_n1 = acts_nd.norm(dim=1, keepdim=True) / acts_nd.shape[1] ** 0.5
        return torch.zeros_like(scale_n1), torch.where(scale_n1 > 0, scale_n1, 1.0)

    def _encode_block(
        self, inputs_nd: torch.Tensor, first_row: int, pre_bf: torch.Tensor, active_bf: torch.Tensor
    ) -> SparseCodes:
        """Codes of a few rows; `pre_bf` and `active_bf` are overwritten."""
        codes = self._activated(inputs_nd, first_row, pre_bf, active_bf)
        cap = self.form.soft_cap
        return codes if cap is None else codes._replace(value=cap * (codes.value / cap).tanh())

    def _activated(
        self, inputs_nd: torch.Tensor, first_row: int, pre_bf: torch.Tensor, active_bf: torch.Tensor
    ) -> SparseCodes:
        import torch  # late: it takes a second to import

        form, n_rows = self.form, inputs_nd.shape[0]
        pre_nf, active_nf = pre_bf[:n_rows], active_bf[:n_rows]
        if form.b_gate_f is not None:
            torch.mm(inputs_nd, form.w_enc_df, out=pre_nf)
            torch.gt(pre_nf, -form.b_gate_f, out=active_nf)
            codes = self._magnitudes(sparse_codes(pre_nf, active_nf, first_row))
        else:
            torch.addmm(form.b_enc_f, inputs_nd, form.w_enc_df, out=pre_nf)
            if form.activation == "topk":
                return self._encode_topk(pre_nf, first_row)
            codes = sparse_codes(pre_nf, torch.gt(pre_nf, self._threshold, out=active_nf), first_row)
        return codes._replace(value=codes.value.tanh()) if form.activation == "tanh-relu" else codes

    @cached_property
    def _threshold(self) -> torch.Tensor | float:
        """What a pre-activation must exceed: strictly more than the threshold, and than zero."""
        if self.form.threshold_f is None or self.form.activation not in ("jumprelu", "batchtopk"):
            return 0.0
        return self.form.threshold_f.clamp(min=0)

    def _encode_topk(self, pre_nf: torch.Tensor, first_row: int) -> SparseCodes:
        import torch  # late: it takes a second to import

        assert self.form.k is not None  # check() saw to it
        _, feature_nk = torch.topk(pre_nf, self.form.k, dim=1, sorted=False)
        feature_nk = feature_nk.sort(dim=1).values
        value_nk = pre_nf.gather(1, feature_nk)
        row_nk = torch.arange(first_row, first_row + pre_nf.shape[0], device=pre_nf.device)[:, None]
        row_nk = row_nk.expand_as(feature_nk)
        active_nk = value_nk > 0
        return SparseCodes(row_nk[active_nk].int().cpu(), feature_nk[active_nk].int().cpu(), value_nk[active_nk].cpu())

    def _magnitudes(self, codes: SparseCodes) -> SparseCodes:
        """Values of a gated SAE from the products x@W_enc of the features whose gate is open."""
        form = self.form
        assert form.r_mag_f is not None and form.b_mag_f is not None  # check() saw to it
        feature = codes.feature.long()
        gain_f, bias_f = form.r_mag_f.exp().cpu(), form.b_mag_f.cpu()
        codes = codes._replace(value=codes.value * gain_f[feature] + bias_f[feature])
        return keep(codes, codes.value > 0)


def _placed(tensors: Mapping[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    """Tensors as the arithmetic needs them: float32, contiguous, on the device, without gradients."""
    import torch  # late: it takes a second to import

    return {name: tensor.detach().to(device, torch.float32).contiguous() for name, tensor in tensors.items()}
