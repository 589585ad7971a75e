"""A CNN in the form that relevance propagation asks for: BatchNorm merged into the layer before it, and put back.

Which layer that is shows in a pass, not in the order in which a class happens to declare its modules: zennit's
canonisers go by that, and merge wrongly where a sum or a concatenation lies between. Imports torch and zennit when it
is imported: import it late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import zennit.types
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from glasshouse.schema.errors import UsageError

Run = Callable[[torch.Tensor], torch.Tensor]

KNOWN_FORWARDS = {
    kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
}
KNOWN_IN_TIMM = ("Conv2dSame", "Linear")
"""Classes of timm with a `forward` of their own that is a convolution or a linear layer all the same."""


@dataclass
class Plan:
    """How relevance goes through one model, found out in one pass.

    Attributes:
        first: the layer that an image meets first.
        merges: BatchNorm to the layer whose output it normalises, and all modules that give that very output.
        unknown: modules with weights of their own that no rule is known for, by name.
    """

    first: nn.Module | None = None
    merges: dict[_BatchNorm, tuple[nn.Module, set[nn.Module]]] = field(default_factory=dict)
    unknown: dict[nn.Module, str] = field(default_factory=dict)


class _Trial:
    """Hooks of one pass that find out what follows on what."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.n_calls: dict[nn.Module, int] = {}
        self._givers: dict[tuple[int, int], set[nn.Module]] = {}
        self._kept: list[Any] = []  # alive until the end, so that no number of an object is used twice

    def note(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """See one module's call; a forward hook."""
        self._kept.append(output)
        self.n_calls[module] = self.n_calls.get(module, 0) + 1
        if isinstance(output, torch.Tensor):
            self._givers.setdefault(_state(output), set()).add(module)
        if isinstance(module, zennit.types.Linear) and self.plan.first is None:
            self.plan.first = module
        if isinstance(module, _BatchNorm) and inputs and _is_plain(module):
            same = self._givers.get(_state(inputs[0]), set())
            layer = next(filter(_can_merge, same), None)
            if layer is not None:
                self.plan.merges[module] = (layer, same)


def planned(spec: str, model: nn.Module, run: Run, images_bchw: torch.Tensor) -> Plan:
    """Find out how relevance goes through a model.

    Args:
        spec: its name, for messages.
        model: in evaluation mode.
        run: one full pass.
        images_bchw: images for it.

    Raises:
        UsageError: weights are used more than once in a pass: zennit keeps one input of each module.
    """
    names = {module: name for name, module in model.named_modules()}
    trial = _Trial(Plan(unknown={module: names[module] for module in names if _is_unknown(module)}))
    handles = [module.register_forward_hook(trial.note) for module in names]
    try:
        with torch.no_grad():
            run(images_bchw)
    finally:
        for handle in handles:
            handle.remove()
    twice = next((module for module, count in trial.n_calls.items() if count > 1 and _has_weights(module)), None)
    if twice is not None:
        raise UsageError(
            f"CRP cannot go through '{names[twice]}' of {spec}: it is used more than once in a pass. Use the method "
            "gradient."
        )
    return trial.plan


@contextmanager
def canonised(plan: Plan, tapped: nn.Module | None) -> Iterator[None]:
    """Merge BatchNorm into the layers before it while the context lasts.

    Args:
        plan: of the model.
        tapped: the module at the hook point, or None. Where the hook point lies between a layer and its BatchNorm, the
            two stay apart: otherwise it would give what comes after the BatchNorm.
    """
    undo: list[Callable[[], None]] = []
    try:
        for norm, (layer, givers) in plan.merges.items():
            if tapped not in givers:
                undo.append(_merge(layer, norm))
        yield
    finally:
        for action in reversed(undo):
            action()


def _state(tensor: torch.Tensor) -> tuple[int, int]:
    """One state of one tensor: what is rectified in place is the same object, but no longer what a layer gave."""
    return id(tensor), tensor._version


def _is_unknown(module: nn.Module) -> bool:
    """Whether a module has weights of its own, and arithmetic that is not known."""
    return _has_weights(module) and not _is_known(module)


def _has_weights(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


def _is_known(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm | nn.PReLU):
        return True
    is_computed = module._parameters.get("weight") is None  # by a parametrisation, out of other tensors
    is_timms = type(module).__module__.startswith("timm.layers.") and type(module).__name__ in KNOWN_IN_TIMM
    return not is_computed and (is_timms or type(module).forward in KNOWN_FORWARDS)


def _can_merge(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and _is_known(module)


def _is_plain(norm: _BatchNorm) -> bool:
    return norm.running_mean is not None and norm.running_var is not None and norm.weight is not None


def _merge(layer: Any, norm: Any) -> Callable[[], None]:
    """Give a layer the weights that it and its BatchNorm have together; return what undoes it."""
    kept = {owner: dict(owner._parameters) for owner in (layer, norm)}
    buffers = dict(norm._buffers)
    scale_c = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = layer.weight * scale_c.view(-1, *[1] * (layer.weight.ndim - 1))
    bias_c = (0 if layer.bias is None else layer.bias) - norm.running_mean
    layer._parameters["weight"] = nn.Parameter(weight.detach(), requires_grad=False)
    layer._parameters["bias"] = nn.Parameter((bias_c * scale_c + norm.bias).detach(), requires_grad=False)
    norm._parameters["weight"] = nn.Parameter(torch.ones_like(scale_c), requires_grad=False)
    norm._parameters["bias"] = nn.Parameter(torch.zeros_like(scale_c), requires_grad=False)
    norm._buffers["running_mean"] = torch.zeros_like(scale_c)
    norm._buffers["running_var"] = torch.full_like(scale_c, 1 - norm.eps)  # variance + eps is 1

    def undo() -> None:
        for owner, parameters in kept.items():
            owner._parameters.update(parameters)
        norm._buffers.update(buffers)

    return undo
