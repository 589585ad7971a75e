"""One implementation of the `Encoder` contract for every library: a tower of modules that is read by hooks.

Owns `Tower` (what a library's loader puts together) and `HookedEncoder`; `tapping.py` has the single hook point,
`classifying.py` the classifier on top.
Rules: PyTorch's forward hooks on the real modules, so that what is read is what the library computes; one pass for
any number of hooks; the pass ends after the last tap that is needed; activations leave as float32.
"""

from __future__ import annotations

import threading
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.devices import torch_device
from glasshouse.plugins.encoders.classifying import Classifying
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.tapping import PassEnds, attach, attach_edit, first_tensor, hook_point
from glasshouse.plugins.encoders.tapping import Tap as Tap
from glasshouse.plugins.fingerprint import fingerprint
from glasshouse.plugins.hub import one_line
from glasshouse.schema.errors import GlasshouseError, ModelError, UsageError
from glasshouse.warehouse.contracts import ForwardResult, HookPoint

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

N_LISTED = 40
"""Hook points named in an error message; a CNN has hundreds."""


@dataclass
class Tower:
    """What a library's loader puts together.

    Attributes:
        model: the whole model in evaluation mode; its state dict is what the fingerprint is over.
        taps: hook points by name; those that the pass does not reach exactly once are left out.
        embed_images: one full pass, images [batch, 3, H, W] to embeddings [batch, E].
        embed_texts: texts to embeddings [n, E], or None without a text tower.
        transform: the model's preprocessing.
        architecture: what the weights' shapes do not say (heads, activation function), JSON-able.
        classify: one full pass, images [batch, 3, H, W] to the classifier's outputs [batch, C], or None without one.
        class_names: of these outputs, in their order; None where the model names none.
        head: what only `classify` uses and the fingerprint leaves out; None where all of it is part of `model`.
    """

    model: nn.Module
    taps: Mapping[str, Tap]
    embed_images: Callable[[torch.Tensor], torch.Tensor]
    transform: ImageTransform
    architecture: Mapping[str, Any]
    embed_texts: Callable[[Sequence[str]], torch.Tensor] | None = None
    classify: Callable[[torch.Tensor], torch.Tensor] | None = None
    class_names: Sequence[str] | None = None
    head: nn.Module | None = None


@dataclass
class _Probe:
    """What one small pass showed: hook points in the order they are reached, and the embedding's width."""

    points: dict[str, HookPoint] = field(default_factory=dict)
    embedding_width: int = 0


class HookedEncoder(Classifying):
    """A tower on one device, as an `Encoder` and a `ClassifyingEncoder`.

    Passes of several threads run one after the other. On CUDA they run under bfloat16 autocast, on the CPU in float32;
    either way float32 comes out.
    """

    def __init__(self, spec: str, tower: Tower, device: str) -> None:
        self.spec = spec
        self.device = device
        self._tower = tower
        self._lock = threading.Lock()
        for part in (tower.model, tower.head):
            if part is not None:
                part.eval().requires_grad_(False).to(torch_device(device))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over weights, architecture and preprocessing."""
        description = {"architecture": self._tower.architecture, "preprocessing": self._tower.transform.describe()}
        return fingerprint(self._tower.model.state_dict(), description)

    @property
    def embedding_width(self) -> int:
        """E, the width of the image embedding."""
        return self._probe.embedding_width

    @property
    def tower(self) -> Tower:
        """The modules, for encoders that are put together from others."""
        return self._tower

    @property
    def transform(self) -> ImageTransform:
        """The preprocessing, as data."""
        return self._tower.transform

    @property
    def framing(self) -> Mapping[str, Any]:
        """How `preprocess` cuts pictures."""
        return self._tower.transform.framing

    def hook_points(self) -> Sequence[HookPoint]:
        """Every hook point, in the order in which the forward pass reaches them."""
        return list(self._probe.points.values())

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Turn one RGB image of any size into a float32 CPU tensor [3, H, W]. Thread-safe."""
        return self._tower.transform(image)

    def embed_text(self, texts: Sequence[str]) -> torch.Tensor | None:
        """Text embeddings [n, E] in the image embedding's space (not normalised), or None without a text tower."""
        if self._tower.embed_texts is None:
            return None
        with self._lock, self._numerics():
            return self._tower.embed_texts(texts).float().cpu()

    def forward(self, batch_bchw: torch.Tensor, hooks: Sequence[str], *, embedding: bool = True) -> ForwardResult:
        """Run several hooks in ONE pass; without `embedding` it stops after the last one.

        Returns:
            float32 tensors on the encoder's device, the activations as [batch, token, width].

        Raises:
            UsageError: a hook that does not exist, or a batch whose shape does not fit the model.
        """
        points = self._probe.points
        for hook in hooks:
            if hook not in points:
                raise self._no_such_hook(hook)
        self._check_batch(batch_bchw)
        last = None if embedding else max(hooks, key=list(points).index, default=None)
        if last is None and not embedding:
            return ForwardResult({}, None)
        taken: dict[str, torch.Tensor] = {}
        embedding_be = None
        with self._lock, self._numerics(), self._hooked(hooks, taken, last), suppress(PassEnds):
            embedding_be = self._tower.embed_images(batch_bchw.to(self.device, non_blocking=True)).float()
        return ForwardResult({hook: taken[hook].float() for hook in hooks}, embedding_be)

    def forward_edited(
        self, batch_bchw: torch.Tensor, hook: str, edit: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Run the whole pass, replacing what the hook point gives by `edit` of it.

        Args:
            batch_bchw: images as `preprocess` makes them.
            hook: name of a hook point.
            edit: from float32 [batch, token, width], a copy, to the same shape. Autocast is off while it runs. It may
                return another number of rows; then the rest of the pass sees as many images, which fails or is wrong
                where the model joins earlier activations to them (a residual stream around the hook point).

        Returns:
            The embedding of the edited pass, float32 [rows of the edit, E], on the encoder's device.

        Raises:
            UsageError: a hook that does not exist, a batch whose shape does not fit, or an edit of another shape.
        """
        return self._edited_pass(batch_bchw, hook, edit, self._tower.embed_images)

    def _edited_pass(
        self,
        batch_bchw: torch.Tensor,
        hook: str,
        edit: Callable[[torch.Tensor], torch.Tensor],
        run: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        tap = self._checked_tap(batch_bchw, hook)
        with self._lock, self._numerics():
            handle = attach_edit(tap, partial(self._edited, tap, edit))
            try:
                return run(batch_bchw.to(self.device, non_blocking=True)).float()
            finally:
                handle.remove()

    def _edited(self, tap: Tap, edit: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
        import torch  # late: it takes a second to import

        tokens_btd = tap.tokens(tensor, keep=False).float()
        with torch.autocast("cuda", enabled=False):
            new_btd = edit(tokens_btd.clone())
        if new_btd.shape[1:] != tokens_btd.shape[1:]:
            raise UsageError(
                f"An edit got activations of shape {list(tokens_btd.shape)} and returned {list(new_btd.shape)}: tokens "
                "and width must stay as they are."
            )
        return tap.replaced(tensor, new_btd)

    @contextmanager
    def _hooked(self, hooks: Sequence[str], taken: dict[str, torch.Tensor], last: str | None) -> Iterator[None]:
        """Read `hooks` into `taken` while the context lasts; the tap `last` ends the pass."""
        # The last one is hooked last: PyTorch calls hooks of one module in this order, and nothing follows a stop.
        ordered = sorted(set(hooks), key=lambda hook: hook == last)
        handles = [
            attach(self._tower.taps[hook], partial(self._take, hook, taken, stop=hook == last)) for hook in ordered
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _take(self, hook: str, taken: dict[str, torch.Tensor], value: Any, *, stop: bool) -> None:
        taken[hook] = self._tower.taps[hook].tokens(first_tensor(value), keep=not stop)
        if stop:
            raise PassEnds

    @contextmanager
    def _numerics(self) -> Iterator[None]:
        import torch  # late: it takes a second to import

        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda"):
            yield

    @cached_property
    def _probe(self) -> _Probe:
        """Run one small batch through every tap.

        Two images rather than one: a module that cuts its input into windows gives another number of rows and is no
        hook point. Nor is a module that runs twice in a pass.
        """
        import torch  # late: it takes a second to import

        n_images = 2
        reached: dict[str, tuple[int, ...]] = {}
        n_calls: dict[str, int] = {}

        def note(name: str, value: Any) -> None:
            tensor = first_tensor(value)
            reached[name] = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else ()
            n_calls[name] = n_calls.get(name, 0) + 1

        images_bchw = torch.zeros(n_images, 3, *self._tower.transform.output_size, device=self.device)
        with self._lock, self._numerics():
            handles = [attach(tap, partial(note, name)) for name, tap in self._tower.taps.items()]
            try:
                embedding_be = self._tower.embed_images(images_bchw)
            except GlasshouseError:
                raise
            except Exception as error:  # a library raises whatever its parts raise
                size = "×".join(map(str, self._tower.transform.output_size))
                raise ModelError(
                    f"{self.spec} cannot run an image of {size} pixels, as its preprocessing makes them: "
                    f"{one_line(error)}. Its preprocessing and its weights do not fit each other."
                ) from error
            finally:
                for handle in handles:
                    handle.remove()
        probe = _Probe(embedding_width=int(embedding_be.shape[-1]))
        for name, shape in reached.items():
            point = hook_point(name, self._tower.taps[name], shape)
            if point and n_calls[name] == 1 and shape[0] == n_images:
                probe.points[name] = point
        return probe

    def _checked_tap(self, batch_bchw: torch.Tensor, hook: str) -> Tap:
        if hook not in self._probe.points:
            raise self._no_such_hook(hook)
        self._check_batch(batch_bchw)
        return self._tower.taps[hook]

    def _check_batch(self, batch_bchw: torch.Tensor) -> None:
        expected = (3, *self._tower.transform.output_size)
        if batch_bchw.ndim != 4 or tuple(batch_bchw.shape[1:]) != expected:
            raise UsageError(
                f"{self.spec} takes batches of shape [n, {', '.join(map(str, expected))}], not "
                f"{list(batch_bchw.shape)}: preprocess every image with `preprocess` and stack the results."
            )

    def _no_such_hook(self, hook: str) -> UsageError:
        """Name the close ones and as many as a line can hold, outer modules first, in the order of the pass."""
        names = list(self._probe.points)
        close = get_close_matches(hook, names, n=1)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        depths = sorted(name.count(".") for name in names)
        # The deepest level that fits as a whole, else the start of the first one.
        deepest = max((depth for depth in depths if bisect(depths, depth) <= N_LISTED), default=min(depths, default=0))
        shown = [name for name in names if name.count(".") <= deepest][:N_LISTED]
        more = f", and {len(names) - len(shown)} more inside these" if len(shown) < len(names) else ""
        return UsageError(f"{self.spec} has no hook point '{hook}'.{guess} Known: {', '.join(shown)}{more}.")
