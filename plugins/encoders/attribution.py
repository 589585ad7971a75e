"""CRP (Achtibat et al., arXiv 2206.03208): layer-wise relevance propagation through CNNs, by zennit and zennit-crp.

Rules are those that CRP recommends for CNNs (zennit's EpsilonPlusFlat): z⁺ for convolutions, ε = 1e-6 for linear
layers, flat for the first layer that an image meets; `propagation.py` has the rules for what has no weights, and
`canonising.py` merges BatchNorm while a pass lasts. What a bias adds to a sum keeps its share of the relevance.

Relevance of a hook point for a class is propagated by zennit alone: zennit-crp always goes down to the pixels, which
nobody wants there. Maps of components are `CondAttribution` of zennit-crp, with a pass that ends at the hook point.

Imports torch and zennit when it is imported: import it late, where a missing zennit is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import zennit.core
import zennit.rules
import zennit.types
from crp.attribution import CondAttribution
from torch import nn

from glasshouse.plugins.encoders.canonising import Run, canonised, planned
from glasshouse.plugins.encoders.classifying import leaf_at
from glasshouse.plugins.encoders.propagation import RelevanceRules, check_graph
from glasshouse.plugins.encoders.tapping import PassEnds, Tap
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.contracts import ClassRelevance

GOES_THROUGH = (
    "It goes through CNNs made of convolutions, linear layers, BatchNorm, activations, pooling, sums and gates; for "
    "other models there is the method gradient."
)
TOLERANCE = 1e-2
"""How far a logit may be off after merging, relative to the largest: rounding, not another function."""


class Attribution:
    """CRP for one model. Not thread-safe: the model is changed while it runs.

    Args:
        spec: the encoder's name, for messages.
        model: the whole model, in evaluation mode.
        run: one full pass of it.
        images_bchw: two images for a trial.

    Raises:
        UsageError: the trial shows a model that CRP cannot propagate through.
    """

    def __init__(self, spec: str, model: nn.Module, run: Run, images_bchw: torch.Tensor) -> None:
        self.spec, self._model = spec, model
        # On a copy: a model may normalise its images in place, which must not show outside and no leaf allows.
        self._run: Run = lambda batch_bchw: run(batch_bchw.clone())
        self._constants = [*model.parameters(), *model.buffers()]
        self._plan = planned(spec, model, self._run, images_bchw)
        self._check_merging(images_bchw)

    def relevance(self, tap: Tap, batch_bchw: torch.Tensor, classes_b: torch.Tensor) -> ClassRelevance:
        """Relevance of a hook point for the logit of one class [batch] of each image, starting with that logit.

        Raises:
            UsageError: there is something between the hook point and the logits that has no rule.
        """
        self._check_tap(tap)
        with canonised(self._plan, tap.module), self._composite().context(self._model), leaf_at(tap) as leaves:
            logits_bc = self._forward(batch_bchw)
            asked_b1 = logits_bc.gather(1, classes_b[:, None])
            if not leaves:
                raise UsageError(f"The classifier of {self.spec} does not use this hook point. Name another one.")
            found = None
            if asked_b1.requires_grad:
                self._check(logits_bc)
                found = torch.autograd.grad(asked_b1, leaves[0], asked_b1.detach(), allow_unused=True)[0]
        relevance = torch.zeros_like(leaves[0]) if found is None else found
        acts_btd = tap.tokens(leaves[0].detach(), keep=False).float()
        return ClassRelevance(acts_btd, tap.tokens(relevance, keep=False).float(), logits_bc.detach().float())

    def maps(self, tap: Tap, batch_bchw: torch.Tensor, features_b: torch.Tensor) -> torch.Tensor:
        """Relevance of the pixels for one neuron [batch] of each image, starting with its activations at all places.

        Returns:
            float32 [batch, H, W], summed over colours.

        Raises:
            UsageError: there is something between the pixels and the hook point that has no rule.
        """
        self._check_tap(tap)
        wrapped = _UpTo(self._model, self._forward, tap.module)
        layer = next(name for name, module in wrapped.named_modules() if module is tap.module)

        def start(output: torch.Tensor) -> torch.Tensor:
            tokens_btd = tap.tokens(output, keep=False)
            asked_btd = torch.zeros_like(tokens_btd)
            places = features_b[:, None, None].expand(-1, tokens_btd.shape[1], 1)
            asked_btd.scatter_(2, places, tokens_btd.gather(2, places))
            return tap.replaced(output, asked_btd)

        with canonised(self._plan, tap.module):
            images_bchw = batch_bchw.detach().clone().requires_grad_()
            attribution = CondAttribution(wrapped)
            wrapped.check = self._check
            found = attribution(
                images_bchw, [{}] * len(batch_bchw), self._composite(), start_layer=layer, init_rel=start
            )
        maps_bhw: torch.Tensor = found.heatmap.float()
        return maps_bhw

    def _check_tap(self, tap: Tap) -> None:
        if tap.layout == "tokens":
            raise UsageError(f"CRP cannot go through {self.spec}, a transformer. {GOES_THROUGH}")

    def _check(self, outcome: torch.Tensor) -> None:
        name = check_graph(outcome)
        if name is not None:
            raise UsageError(f"CRP cannot go through the operation {name} of {self.spec}. {GOES_THROUGH}")

    def _forward(self, batch_bchw: torch.Tensor) -> torch.Tensor:
        """One pass with relevance's rules recorded; modules that have none refuse what relevance depends on."""
        rules = RelevanceRules(self._constants)
        handles = [
            module.register_forward_pre_hook(partial(self._refuse, name)) for module, name in self._plan.unknown.items()
        ]
        for module in filter(self._has_rule, self._model.modules()):
            handles += [module.register_forward_pre_hook(rules.enter), module.register_forward_hook(rules.leave)]
        try:
            with rules:
                return self._run(batch_bchw)
        finally:
            for handle in handles:
                handle.remove()

    def _has_rule(self, module: nn.Module) -> bool:
        """Whether zennit has a rule for a module."""
        return isinstance(module, zennit.types.Linear) and module not in self._plan.unknown

    def _refuse(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if any(isinstance(value, torch.Tensor) and value.requires_grad for value in inputs):
            raise UsageError(
                f"CRP cannot go through '{name or 'the model itself'}' of {self.spec}: it is of the kind "
                f"{type(module).__name__}, with weights that no rule is known for. {GOES_THROUGH}"
            )

    def _composite(self) -> Any:
        """The rules of zennit for the modules with weights."""
        z_plus, epsilon, flat = ZPlus(), zennit.rules.Epsilon(), zennit.rules.Flat()

        def rule(_context: Mapping[str, Any], _name: str, module: nn.Module) -> Any:
            if module is self._plan.first:
                return flat
            if not self._has_rule(module):
                return None
            return epsilon if isinstance(module, nn.Linear) else z_plus

        return zennit.core.Composite(module_map=rule)

    def _check_merging(self, images_bchw: torch.Tensor) -> None:
        """See that nothing else reads what a merged layer gives, and that no rule changes the pass."""
        with torch.no_grad():
            plain = self._run(images_bchw)
        with canonised(self._plan, None), RelevanceRules(self._constants):
            merged = self._run(images_bchw.clone().requires_grad_()).detach()
        if (plain - merged).abs().max() > TOLERANCE * plain.abs().max():
            raise UsageError(
                f"CRP cannot go through {self.spec}: the pass in the form that it needs, with BatchNorm merged into "
                "the layers before it, gives other results than the model's own. Use the method gradient."
            )


class ZPlus(zennit.rules.ZPlus):  # type: ignore[misc]  # zennit has no types
    """zennit's rule z⁺, without the half of it that is zero where no input is negative: behind every ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self._half = zennit.core.BasicHook(
            input_modifiers=[lambda acts: acts],
            param_modifiers=[lambda weights, _name: weights.clamp(min=0)],
            output_modifiers=[lambda output: output],
            gradient_mapper=lambda relevance, outputs: [relevance / zennit.core.stabilize(outputs[0])],
            reducer=lambda inputs, gradients: inputs[0] * gradients[0],
        )

    def copy(self) -> ZPlus:
        """One for each module."""
        return ZPlus()

    def backward(self, module: Any, grad_input: Any, grad_output: Any) -> Any:
        """Distribute the relevance of one module's output."""
        if (self.stored_tensors["input"][0] < 0).any():
            return super().backward(module, grad_input, grad_output)
        self._half.stored_tensors = self.stored_tensors
        return self._half.backward(module, grad_input, grad_output)


class _UpTo(nn.Module):
    """A model whose pass ends at one of its modules, for zennit-crp, which knows only models to be called."""

    def __init__(self, model: nn.Module, run: Run, last: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.check: Callable[[torch.Tensor], None] = lambda outcome: None
        self._run, self._last = run, [last]  # in a list: it is no second child

    def forward(self, batch_bchw: torch.Tensor) -> torch.Tensor:
        """Run until the module has given its output; return nothing of interest."""

        def stop(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            self.check(output)
            raise PassEnds

        # Hooked here rather than earlier: hooks run in their order, and zennit's come before the end.
        handle = self._last[0].register_forward_hook(stop)
        try:
            self._run(batch_bchw)
        except PassEnds:
            pass
        finally:
            handle.remove()
        return batch_bchw
