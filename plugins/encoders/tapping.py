"""One hook point: where it is read, how what is there becomes tokens, and how other tokens are put in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from glasshouse.warehouse.contracts import HookPoint

if TYPE_CHECKING:
    import torch
    from torch import nn


class PassEnds(Exception):
    """Raised inside a hook when nothing after it is needed; caught where the pass was started."""


@dataclass(frozen=True)
class Tap:
    """Where one hook point is read.

    Attributes:
        module: the module that is hooked.
        side: its output, or its (first) input.
        layout: `tokens` [batch, token, width], or a map that is flattened to tokens row by row:
            `nchw` [batch, width, rows, columns], `nhwc` [batch, rows, columns, width].
        n_prefix: tokens before the patch grid; 0 for maps.
        grid: rows and columns of the patch tokens; None for maps, whose shape says it.
    """

    module: nn.Module
    side: Literal["output", "input"] = "output"
    layout: Literal["tokens", "nchw", "nhwc"] = "tokens"
    n_prefix: int = 0
    grid: tuple[int, int] | None = None

    def tokens(self, tensor: torch.Tensor, *, keep: bool) -> torch.Tensor:
        """Turn what the module gave into [batch, token, width].

        Args:
            tensor: the module's output or input.
            keep: the pass goes on, so a map must be copied: CNNs add and rectify in place.
        """
        if self.layout == "tokens":
            return tensor
        if self.layout == "nchw":
            tensor = tensor.permute(0, 2, 3, 1)
        tokens_btd = tensor.flatten(1, 2)
        return tokens_btd.clone() if keep and tokens_btd.data_ptr() == tensor.data_ptr() else tokens_btd

    def replaced(self, tensor: torch.Tensor, tokens_btd: torch.Tensor) -> torch.Tensor:
        """Put tokens into the form, number type and memory order of what the module gave; the reverse of `tokens`."""
        import torch  # late: it takes a second to import

        if self.layout == "nchw":
            tokens_btd = tokens_btd.transpose(1, 2)
        new = tokens_btd.reshape(-1, *tensor.shape[1:]).to(tensor.dtype)
        # Convolutions round differently in another memory order; an edit that changes nothing must change nothing.
        in_order = tensor.ndim == 4 and not tensor.is_contiguous()
        return new.contiguous(memory_format=torch.channels_last if in_order else torch.contiguous_format)


def attach(tap: Tap, action: Callable[[Any], None]) -> Any:
    """Call `action` with what `tap` reads at every pass; returns a handle with `remove()`."""
    if tap.side == "output":
        return tap.module.register_forward_hook(lambda _module, _inputs, output: action(output))
    return tap.module.register_forward_pre_hook(lambda _module, inputs: action(inputs))


def attach_edit(tap: Tap, action: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Replace what `tap` reads by `action` of it at every pass; returns a handle with `remove()`."""
    if tap.side == "output":
        return tap.module.register_forward_hook(lambda _module, _inputs, output: _with_first(output, action))
    return tap.module.register_forward_pre_hook(lambda _module, inputs: _with_first(inputs, action))


def _with_first(value: Any, action: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with `action` of its first tensor in place of that."""
    new = action(first_tensor(value))
    if not isinstance(value, tuple | list) or not value:
        return new
    make = getattr(value, "_make", type(value))
    return make([new, *value[1:]])


def first_tensor(value: Any) -> Any:
    """The first of a tuple or list of outputs, or the output itself."""
    return value[0] if isinstance(value, tuple | list) and value else value


def hook_point(name: str, tap: Tap, shape: tuple[int, ...]) -> HookPoint | None:
    """Describe a tap from the shape it gave; None where the shape is not that of tokens or a map."""
    if tap.layout == "tokens":
        if len(shape) != 3:
            return None
        fits = tap.grid is not None and tap.n_prefix + tap.grid[0] * tap.grid[1] == shape[1]
        return HookPoint(name, shape[2], tap.n_prefix, tap.grid if fits else None)
    if len(shape) != 4:
        return None
    rows, columns, width = (shape[2], shape[3], shape[1]) if tap.layout == "nchw" else shape[1:]
    return HookPoint(name, width, 0, (rows, columns))
