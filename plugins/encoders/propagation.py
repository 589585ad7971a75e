"""Relevance through what has no weights: sums, gates, pooling and activations, wherever a model computes them.

A composite of zennit puts rules on modules; what a model computes between its modules (`x += shortcut`, `x.mean`,
`F.silu`) is out of its reach, and zennit mends that with a rewritten `forward` for each architecture it knows. Here
such calls are caught while the forward pass runs (`torch.overrides.TorchFunctionMode`) and handed to autograd functions
whose backward is the rule, so that one implementation serves every library's blocks, and a user's own.

| what | rule |
|---|---|
| a + b, a − b of activations | by contribution: R_a = a / (a ± b) · R, with ε = 1e-6 (zennit's `Norm`) |
| mean, sum, average pooling, interpolation, blurring | by contribution, likewise |
| activations, BatchNorm that is left, scaling | passed on: R_x = R |
| x · gate | to the signal: R_x = R, R_gate = 0 (the larger operand, or the first) |
| convolutions, linear layers | by zennit's rule; the gradient, which it would throw away, is not computed |
| maximum pooling, cat, reshaping, padding | as the gradient goes |

Anything else between the hook point and where relevance starts is refused by its name. Imports torch when it is
imported: import it late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

EPSILON = 1e-6
ACTIVATIONS = {
    "batch_norm", "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish",
    "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh", "tanhshrink",
    "threshold",
}  # fmt: skip
LINEAR = {
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "interpolate", "mean", "sum",
}  # fmt: skip
WEIGHTED = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}
SUMS = {"add": 1, "sub": -1}
PRODUCTS = {"mul", "div", "multiply", "divide", "true_divide"}
ROUTING = {
    "AccumulateGrad", "AdaptiveMaxPool2D", "Add", "Alias", "Amax", "AsStrided", "Cat", "Clone", "ConstantPadNd",
    "CopyBackwards", "CopySlices", "Expand", "Flip", "Identity", "Index", "IndexSelect", "MaxPool2DWithIndices",
    "Narrow", "Permute", "PixelShuffle", "PixelUnshuffle", "Proportional", "ReflectionPad2D", "Repeat", "Replaced",
    "ReplicationPad2D", "Reshape", "Roll", "Select", "Shared", "Slice", "Split", "SplitWithSizes", "Squeeze", "Stack",
    "Sub", "ToCopy", "Transpose", "Unbind", "Unchanged", "UnsafeSplit", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip
"""Nodes of autograd's graph through which relevance goes by a rule of ours or zennit's, or as the gradient does."""


class Unchanged(torch.autograd.Function):
    """y = f(x) elementwise, with the relevance of y passed on as it is."""

    @staticmethod
    def forward(ctx: Any, signal: torch.Tensor, compute: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Compute without a graph."""
        ctx.shape = signal.shape
        return compute(signal)

    @staticmethod
    def backward(ctx: Any, *relevance: torch.Tensor) -> tuple[torch.Tensor, None]:
        """R_x = R; summed where x was repeated."""
        return relevance[0].sum_to_size(ctx.shape), None


class Shared(torch.autograd.Function):
    """z = a + sign · b, with the relevance of z shared by what each adds to it."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, sign: float) -> torch.Tensor:
        """Add; the shares are kept instead of the operands, which may be changed in place later."""
        total = a + sign * b
        safe = stabilised(total)
        ctx.save_for_backward(a / safe, sign * b / safe)
        ctx.shapes = a.shape, b.shape
        return total

    @staticmethod
    def backward(ctx: Any, *relevance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """R_a = a / z · R and R_b = sign · b / z · R."""
        shares = (
            (share * relevance[0]).sum_to_size(shape)
            for share, shape in zip(ctx.saved_tensors, ctx.shapes, strict=True)
        )
        return next(shares), next(shares), None


class Proportional(torch.autograd.Function):
    """y = f(x) of a linear f without bias, with the relevance of y shared by what each x adds to it."""

    @staticmethod
    def forward(ctx: Any, signal: torch.Tensor, compute: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Compute without a graph."""
        ctx.save_for_backward(signal)
        ctx.compute = compute
        return compute(signal)

    @staticmethod
    def backward(ctx: Any, *relevance: torch.Tensor) -> tuple[torch.Tensor, None]:
        """R_x = x · fᵀ(R / y)."""
        (signal,) = ctx.saved_tensors
        with torch.enable_grad():
            signal = signal.detach().requires_grad_()
            outcome = ctx.compute(signal)
        (shares,) = torch.autograd.grad(outcome, signal, relevance[0] / stabilised(outcome.detach()))
        return signal.detach() * shares, None


class Replaced(torch.autograd.Function):
    """y = f(x) of a layer whose relevance zennit works out in a hook before it, from x and the layer's weights."""

    @staticmethod
    def forward(ctx: Any, signal: torch.Tensor, compute: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Compute without a graph."""
        ctx.shape = signal.shape
        return compute(signal)

    @staticmethod
    def backward(ctx: Any, *relevance: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Zeros of the form of x, which take no memory: the hook puts the relevance in their place."""
        return relevance[0].new_zeros(()).expand(ctx.shape), None


class RelevanceRules(TorchFunctionMode):
    """While it is active, forward passes are recorded so that autograd's backward distributes relevance.

    It must not be active during the backward pass, in which zennit runs modules again.

    Args:
        constants: parameters and buffers of the model: adding one of them is a bias and takes no relevance.
    """

    def __init__(self, constants: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._constants = {id(tensor) for tensor in constants}
        self._running: list[torch.nn.Module] = []  # layers under way, of those that zennit has a hook before

    def enter(self, layer: torch.nn.Module, _inputs: Any) -> None:
        """Note that a layer's call begins; a forward pre-hook."""
        self._running.append(layer)

    def leave(self, layer: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        """Note that it has ended; a forward hook."""
        self._running.remove(layer)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if not any(isinstance(value, torch.Tensor) and value.requires_grad for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        in_place = name.endswith("_") and not name.endswith("__")
        outcome = self._by_rule(name.rstrip("_") if in_place else name, func, args, kwargs)
        if outcome is None:
            return func(*args, **kwargs)
        return args[0].copy_(outcome) if in_place else outcome

    def _by_rule(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor | None:
        """What a rule of ours makes of a call; None where there is none."""
        if name in SUMS and len(args) == 2 and self._are_activations(*args):
            return _apply(Shared, args[0], args[1], SUMS[name] * float(kwargs.pop("alpha", 1)))
        if name in PRODUCTS and len(args) == 2 and not kwargs:
            return _gated(_out_of_place(func), *args)
        if name in WEIGHTED and len(args) > 1:
            is_filter = not isinstance(args[1], torch.nn.Parameter)  # fixed weights that blur, say
            if not is_filter and not any(layer._parameters.get("weight") is args[1] for layer in self._running):
                return None  # a layer's weights, but not its call: zennit does not see it, and `check_graph` refuses
            rule = Proportional if is_filter else Replaced
            return _apply(rule, args[0], lambda signal: func(signal, *args[1:], **kwargs))
        if name in LINEAR and args:
            return _apply(Proportional, args[0], lambda signal: func(signal, *args[1:], **kwargs))
        if name in ACTIVATIONS and args:
            if "inplace" in kwargs:
                kwargs["inplace"] = False
            compute = _out_of_place(func)
            return _apply(Unchanged, args[0], lambda signal: compute(signal, *args[1:], **kwargs))
        return None

    def _are_activations(self, a: Any, b: Any) -> bool:
        """Whether a sum is one of two branches, and not of a branch and a bias."""
        if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
            return False
        if id(a) in self._constants or id(b) in self._constants:
            return False
        return a.ndim == b.ndim and (a.shape == b.shape or (a.requires_grad and b.requires_grad))


def check_graph(outcome: torch.Tensor) -> str | None:
    """Look for a computation on the way back from `outcome` that no rule is known for; return its name, or None."""
    seen, waiting = set(), [outcome.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
        if name not in ROUTING:
            return name
        waiting.extend(following for following, _ in node.next_functions)
    return None


def stabilised(tensor: torch.Tensor) -> torch.Tensor:
    """Keep a denominator from 0: ± ε is added to it, + where it is 0, as zennit does."""
    return tensor + torch.where(tensor < 0, -EPSILON, EPSILON)


def _gated(compute: Any, a: Any, b: Any) -> torch.Tensor:
    """A product of a signal and a gate, or of a quotient's numerator and denominator."""
    is_second = isinstance(b, torch.Tensor) and (not isinstance(a, torch.Tensor) or b.numel() > a.numel())
    if is_second:
        gate = a.detach() if isinstance(a, torch.Tensor) else a
        return _apply(Unchanged, b, lambda signal: compute(gate, signal))
    gate = b.detach() if isinstance(b, torch.Tensor) else b
    return _apply(Unchanged, a, lambda signal: compute(signal, gate))


def _out_of_place(func: Any) -> Any:
    """The function that returns what `func`, such as `relu_`, would write into its argument."""
    name = getattr(func, "__name__", "")
    plain = name.rstrip("_")
    if plain == name:
        return func
    return getattr(torch.Tensor, plain, None) or getattr(torch, plain)


def _apply(function: type[torch.autograd.Function], *args: Any) -> torch.Tensor:
    """Call an autograd function; torch gives its `apply` no types."""
    outcome: torch.Tensor = function.apply(*args)  # type: ignore[no-untyped-call]
    return outcome
