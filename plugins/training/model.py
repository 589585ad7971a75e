"""The dictionary in training: parameters, one step, and its tensors in the units of the activations.

Inside, activations have unit mean squared norm: x is multiplied by `scale`, which is folded into the tensors when they
are handed out. Decoder rows keep length 1; the gradient's part along them is taken out, which would only change it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.training.gradients import auxiliary_gradients, loss_and_gradients
from glasshouse.plugins.training.recipe import Recipe
from glasshouse.plugins.training.selection import BatchTop, Chosen, row_top

if TYPE_CHECKING:
    import torch

BETAS = (0.9, 0.99)
THRESHOLD_MEMORY = 0.98
"""How much of the running threshold each batch leaves."""
_PARAMETERS = ("w_enc_fd", "b_enc_f", "w_dec_fd", "b_dec_d")
MOST_AUXILIARY_K = 256
AUXILIARY_SHARE = 4
"""The auxiliary loss is taken on as many vectors as have this many times the batch's codes, so that it stays cheap."""


class StepResult(NamedTuple):
    """Of one step: the loss, the gradient's norm before it is cut, active features for each vector, dead features."""

    loss: float
    gradient_norm: float
    l0: float
    n_dead: int


class Trainee:
    """Parameters, optimizer and what is remembered from batch to batch.

    Args:
        recipe: what is trained.
        mean_d: mean of the activations, in their own units: where b_dec starts.
        scale: what makes their mean squared norm 1.
        device: `cpu` or `cuda`.
    """

    def __init__(self, recipe: Recipe, mean_d: torch.Tensor, scale: float, device: str = "cpu") -> None:
        import torch  # late: it takes a second to import

        self.recipe, self.scale, self.device = recipe, scale, device
        generator = torch.Generator().manual_seed(recipe.seed)
        directions_fd = torch.randn(recipe.n_features, len(mean_d), generator=generator)
        decoder_fd = torch.nn.functional.normalize(directions_fd, dim=1)
        self.w_enc_fd = decoder_fd.clone().to(device).requires_grad_()
        self.w_dec_fd = decoder_fd.to(device).requires_grad_()
        self.b_enc_f = torch.zeros(recipe.n_features, device=device).requires_grad_()
        self.b_dec_d = (mean_d.float() * scale).to(device).requires_grad_()
        self.idle_f = torch.zeros(recipe.n_features, dtype=torch.int64, device=device)
        self.threshold = 0.0
        self.optimizer = torch.optim.Adam(self.parameters(), lr=recipe.learning_rate, betas=BETAS, fused=True)
        self._batch_top = BatchTop()
        self._pre_nf: torch.Tensor | None = None
        sizes = torch.tensor([0, *recipe.prefixes]).diff()
        self._group_f = torch.arange(len(sizes)).repeat_interleave(sizes).to(device)

    def parameters(self) -> list[torch.Tensor]:
        """W_enc [F, D], b_enc, W_dec [F, D], b_dec."""
        return [self.w_enc_fd, self.b_enc_f, self.w_dec_fd, self.b_dec_d]

    def step(self, acts_nd: torch.Tensor, number: int) -> StepResult:
        """Learn from one batch [n, D] in the activations' own units.

        Nothing is changed when the loss or the gradient is not finite.
        """
        import torch  # late: it takes a second to import

        with torch.no_grad():
            acts_nd = acts_nd.to(self.device) * self.scale
            centred_nd = acts_nd - self.b_dec_d
            pre_nf = self._pre_activations(centred_nd)
            codes = self._choose(pre_nf)
            weights = (self.w_enc_fd.detach(), self.w_dec_fd.detach(), self.b_dec_d.detach())
            result = loss_and_gradients(acts_nd, centred_nd, codes, weights, self._group_f, len(self.recipe.prefixes))
            for parameter, gradient in zip(self.parameters(), result.gradients, strict=True):
                parameter.grad = gradient
            dead = (self.idle_f > self.recipe.idle_limit).nonzero().reshape(-1)
            loss = result.loss
            if len(dead):
                loss = loss + self._auxiliary(centred_nd, result.residual_nd, pre_nf, dead)
            norm = self._settle_gradients()
            step = StepResult(float(loss), norm, len(codes.value) / len(acts_nd), len(dead))
            if math.isfinite(step.loss) and math.isfinite(norm):
                self._update(codes, len(acts_nd), number)
            return step

    def _pre_activations(self, centred_nd: torch.Tensor) -> torch.Tensor:
        """(x − b_dec)·W_encᵀ + b_enc, [n, F], in the same memory each time: fresh pages cost as much as writing."""
        import torch  # late: it takes a second to import

        if self.device != "cpu":
            with torch.autocast(self.device, dtype=torch.bfloat16):
                product_nf = torch.nn.functional.linear(centred_nd, self.w_enc_fd)
            return product_nf.float() + self.b_enc_f
        shape = (len(centred_nd), len(self.w_enc_fd))
        if self._pre_nf is None or self._pre_nf.shape != shape:
            self._pre_nf = torch.empty(shape)
        return torch.addmm(self.b_enc_f, centred_nd, self.w_enc_fd.T, out=self._pre_nf)

    def _choose(self, pre_nf: torch.Tensor) -> Chosen:
        if self.recipe.kind == "topk":
            return row_top(pre_nf, self.recipe.k)
        return self._batch_top(pre_nf, len(pre_nf) * self.recipe.k)

    def _auxiliary(
        self, centred_nd: torch.Tensor, residual_nd: torch.Tensor, pre_nf: torch.Tensor, dead: torch.Tensor
    ) -> torch.Tensor:
        """Add the gradients of the auxiliary loss; returns it. The batch is shuffled, so its first rows are any."""
        recipe = self.recipe
        k = recipe.auxiliary_k or min(MOST_AUXILIARY_K, centred_nd.shape[1] // 2 or 1)
        n_rows = max(1, min(len(centred_nd), AUXILIARY_SHARE * len(centred_nd) * recipe.k // k))
        loss, w_enc_md, b_enc_m, w_dec_md = auxiliary_gradients(
            centred_nd[:n_rows],
            residual_nd[:n_rows],
            pre_nf[:n_rows, dead],
            self.w_dec_fd[dead],
            k,
            recipe.auxiliary_weight,
        )
        for parameter, gradient in ((self.w_enc_fd, w_enc_md), (self.b_enc_f, b_enc_m), (self.w_dec_fd, w_dec_md)):
            assert parameter.grad is not None  # the batch's gradients are there already
            parameter.grad[dead] += gradient
        return loss

    def _settle_gradients(self) -> float:
        """Take out what would only lengthen decoder rows, cut the norm; returns the norm before the cut."""
        import torch  # late: it takes a second to import

        gradient_fd = self.w_dec_fd.grad
        assert gradient_fd is not None  # set in `step`
        gradient_fd.addcmul_(torch.linalg.vecdot(gradient_fd, self.w_dec_fd)[:, None], self.w_dec_fd, value=-1)
        return float(torch.nn.utils.clip_grad_norm_(self.parameters(), self.recipe.clip))

    def _update(self, codes: Chosen, n_rows: int, number: int) -> None:
        """Optimizer step, decoder rows back to length 1, and what the batch says of activity and threshold."""
        import torch  # late: it takes a second to import

        self.optimizer.param_groups[0]["lr"] = self.recipe.rate(number)
        self.optimizer.step()
        torch.nn.functional.normalize(self.w_dec_fd, dim=1, out=self.w_dec_fd)
        self.idle_f += n_rows
        self.idle_f[codes.feature] = 0
        last = self._batch_top.last
        if last is not None:
            memory = THRESHOLD_MEMORY if number else 0.0
            self.threshold = memory * self.threshold + (1 - memory) * last

    def form(self, threshold: float | None = None) -> CommonForm:
        """The tensors as an SAE of activations in their own units, on the CPU.

        Args:
            threshold: in the units inside; the running one when None.
        """
        import torch  # late: it takes a second to import

        unit = 1 / self.scale
        given = self.threshold if threshold is None else threshold
        is_topk = self.recipe.kind == "topk"
        return CommonForm(
            w_enc_df=self.w_enc_fd.detach().cpu().T.contiguous(),
            b_enc_f=self.b_enc_f.detach().cpu() * unit,
            w_dec_fd=self.w_dec_fd.detach().cpu().clone(),
            b_dec_d=self.b_dec_d.detach().cpu() * unit,
            activation="topk" if is_topk else "batchtopk",
            k=self.recipe.k,
            threshold_f=None if is_topk else torch.tensor([given * unit], dtype=torch.float32),
        )

    def threshold_for(self, acts_nd: torch.Tensor, block: int = 4096) -> float:
        """The threshold at which these vectors [n, D] have k active features on average, in the units inside.

        Exact: the n·k-th largest value, found among those above half the running threshold, or among all.
        """
        import torch  # late: it takes a second to import

        n_kept, bar = len(acts_nd) * self.recipe.k, self.threshold / 2
        with torch.no_grad():
            while True:
                values = torch.cat([self._values_above(rows_nd, bar) for rows_nd in acts_nd.split(block)])  # type: ignore[no-untyped-call]
                if len(values) > n_kept:
                    # Strictly above is active, so it lies between the last that is and the first that is not.
                    return float(values.topk(n_kept + 1).values[-1])
                if bar == 0:
                    return 0.0
                bar = bar / 2 if bar > 1e-6 else 0.0

    def _values_above(self, acts_nd: torch.Tensor, bar: float) -> torch.Tensor:
        pre_nf = self._pre_activations(acts_nd.to(self.device) * self.scale - self.b_dec_d)
        return pre_nf[pre_nf > bar]

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything that the next step depends on: tensors, and plain values."""
        tensors = {name: getattr(self, name).detach() for name in _PARAMETERS}
        tensors["idle_f"] = self.idle_f
        for name, parameter in zip(_PARAMETERS, self.parameters(), strict=True):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        return tensors, {"scale": self.scale, "threshold": self.threshold, "last": self._batch_top.last}

    def restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Become what `state` was taken of."""
        import torch  # late: it takes a second to import

        with torch.no_grad():
            for name, parameter in zip(_PARAMETERS, self.parameters(), strict=True):
                parameter.copy_(tensors[name])
                start = f"optimizer.{name}."
                moments = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
                if moments:
                    self.optimizer.state[parameter] = {key: value.to(self.device) for key, value in moments.items()}
            self.idle_f.copy_(tensors["idle_f"])
        self.scale, self.threshold, self._batch_top.last = (values[name] for name in ("scale", "threshold", "last"))
