"""The classifier on top of a tower: its outputs, and how much a hook point's activations count for one of them.

Owns what makes a `HookedEncoder` a `ClassifyingEncoder`. Gradients flow although weights want none: what the hook
point gives takes the place of a leaf that does, so that the graph begins there and not at the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, get_args

from glasshouse.plugins.encoders.tapping import Tap, attach_edit
from glasshouse.plugins.hub import one_line
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.contracts import ClassRelevance, HookPoint, RelevanceMethod

if TYPE_CHECKING:
    import threading
    from contextlib import AbstractContextManager

    import torch

    from glasshouse.plugins.encoders.attribution import Attribution
    from glasshouse.plugins.encoders.hooked import Tower

    Pass = Callable[[torch.Tensor], torch.Tensor]
    Edit = Callable[[torch.Tensor], torch.Tensor]


class Classifying:
    """The part of `HookedEncoder` that knows of classes; what it needs of the rest is declared here."""

    spec: str
    device: str
    _tower: Tower
    _lock: threading.Lock

    if TYPE_CHECKING:

        def _numerics(self) -> AbstractContextManager[None]: ...
        @cached_property
        def fingerprint(self) -> str:
            """See `HookedEncoder`."""

        def hook_points(self) -> Sequence[HookPoint]:
            """See `HookedEncoder`."""

        def _checked_tap(self, batch_bchw: torch.Tensor, hook: str) -> Tap: ...
        def _check_batch(self, batch_bchw: torch.Tensor) -> None: ...
        def _edited_pass(self, batch_bchw: torch.Tensor, hook: str, edit: Edit, run: Pass) -> torch.Tensor: ...

    @cached_property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classifier's outputs in their order, numbers where the model names none; None without one.

        Raises:
            ModelError: the model names another number of classes than it has outputs.
        """
        import torch  # late: it takes a second to import

        if self._tower.classify is None:
            return None
        images_bchw = torch.zeros(1, 3, *self._tower.transform.output_size, device=self.device)
        with self._lock, self._numerics():
            logits_bc = self._tower.classify(images_bchw)
        if logits_bc.ndim != 2:
            raise ModelError(
                f"The classifier of {self.spec} gives {list(logits_bc.shape)} for an image; a row of numbers is wanted."
            )
        n_classes, names = int(logits_bc.shape[1]), self._tower.class_names
        if names is None:
            return tuple(map(str, range(n_classes)))
        if len(names) != n_classes:
            raise ModelError(f"{self.spec} has {n_classes} classes and {len(names)} names for them. Name every class.")
        return told_apart(list(map(str, names)))

    def forward_logits(
        self, batch_bchw: torch.Tensor, hook: str | None = None, edit: Edit | None = None
    ) -> torch.Tensor:
        """Return the classifier's outputs before softmax.

        Args:
            batch_bchw: images as `preprocess` makes them.
            hook: name of a hook point, or None for a pass as it is.
            edit: as for `forward_edited`; one with `hook` and none without.

        Returns:
            float32 [batch, C], on the encoder's device.

        Raises:
            UsageError: no classifier, a hook that does not exist, a batch whose shape does not fit, or an edit of
                another shape.
        """
        classify = self._classifier()
        if (hook is None) != (edit is None):
            raise UsageError("An edited pass takes both: a hook point and an edit of what it gives.")
        if hook is not None and edit is not None:
            return self._edited_pass(batch_bchw, hook, edit, classify)
        self._check_batch(batch_bchw)
        with self._lock, self._numerics():
            logits_bc: torch.Tensor = classify(batch_bchw.to(self.device, non_blocking=True)).float()
        return logits_bc

    def class_relevance(
        self, batch_bchw: torch.Tensor, hook: str, classes_b: torch.Tensor, method: RelevanceMethod
    ) -> ClassRelevance:
        """Say how much what a hook point gives counts for a class's logit.

        Everything is computed in float32, on CUDA too, where `forward` runs in bfloat16.

        Args:
            batch_bchw: images as `preprocess` makes them.
            hook: name of a hook point.
            classes_b: the class asked about for each image, int64 [batch].
            method: `gradient` is activation × d logit / d activation; a linear layer behind a hook point makes it
                activation × weight, and its sum over a layer without bias the logit itself. `crp` as in `attribution`.

        Returns:
            float32 tensors on the encoder's device, tokens in the order of `forward`.

        Raises:
            UsageError: no classifier, a hook or a class that does not exist, a batch that does not fit, or a model
                that `crp` cannot propagate through.
            ModelError: `crp` without the extra `attribution`.
        """
        classify, tap = self._classifier(), self._checked_tap(batch_bchw, hook)
        self._check_classes(classes_b, len(batch_bchw))
        if method not in get_args(RelevanceMethod):
            raise UsageError(f"Relevance is computed by {' or '.join(get_args(RelevanceMethod))}, not by '{method}'.")
        with self._lock, self._float32():
            batch_bchw, classes_b = batch_bchw.to(self.device), classes_b.to(self.device)
            if method == "crp":
                return self._attribution.relevance(tap, batch_bchw, classes_b)
            return gradient_relevance(classify, tap, batch_bchw, classes_b)

    def component_maps(self, batch_bchw: torch.Tensor, hook: str, features_b: torch.Tensor) -> torch.Tensor:
        """Say which pixels make a neuron of a hook point active on each image: CRP, as in `attribution`.

        Args:
            batch_bchw: images as `preprocess` makes them.
            hook: name of a hook point of a CNN.
            features_b: the neuron (the place in the hook's width) asked about for each image, int64 [batch].

        Returns:
            float32 [batch, H, W] on the encoder's device: relevance summed over colours, negative values included. It
            starts as the neuron's activations at all places of the map.

        Raises:
            UsageError: a hook or a neuron that does not exist, a batch that does not fit, or a model that CRP cannot
                propagate through.
            ModelError: without the extra `attribution`.
        """
        tap = self._checked_tap(batch_bchw, hook)
        width = next(point.width for point in self.hook_points() if point.name == hook)
        _check_numbers(features_b, len(batch_bchw), "neuron", width, f"{hook} of {self.spec}")
        with self._lock, self._float32():
            return self._attribution.maps(tap, batch_bchw.to(self.device), features_b.to(self.device))

    @cached_property
    def _attribution(self) -> Attribution:
        """CRP for this model; made at its first use."""
        import torch  # late: it takes a second to import

        try:
            # Late: an extra, and it imports torch.
            from glasshouse.plugins.encoders.attribution import Attribution
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("zennit", "crp"):
                raise
            raise ModelError(
                "CRP needs zennit-crp, which is not installed: pip install 'glasshouse[attribution]'."
            ) from error
        assert self.fingerprint  # now: while CRP runs the weights are merged, and another thread might ask for it
        generator = torch.Generator().manual_seed(0)
        images_bchw = torch.randn(2, 3, *self._tower.transform.output_size, generator=generator).to(self.device)
        run = self._tower.classify or self._tower.embed_images
        return Attribution(self.spec, self._tower.model, run, images_bchw)

    def _classifier(self) -> Pass:
        if self._tower.classify is None:
            raise UsageError(
                f"{self.spec} has no classifier, so no class can be asked about. Use a model that has one, "
                "e.g. timm:resnet50.a1_in1k."
            )
        return self._tower.classify

    def _check_classes(self, classes_b: torch.Tensor, n_images: int) -> None:
        n_classes = len(self.class_names or ())
        _check_numbers(classes_b, n_images, "class", n_classes, self.spec)

    @contextmanager
    def _float32(self) -> Iterator[None]:
        """With gradients, and without autocast: a relevance is a quotient of sums, which bfloat16 would blur."""
        import torch  # late: it takes a second to import

        try:
            with torch.enable_grad(), torch.autocast("cuda", enabled=False):
                yield
        except RuntimeError as error:  # autograd's, of models that it cannot go back through; or memory has run out
            raise ModelError(f"Relevance cannot be propagated back through {self.spec}: {one_line(error)}.") from error


def gradient_relevance(classify: Pass, tap: Tap, batch_bchw: torch.Tensor, classes_b: torch.Tensor) -> ClassRelevance:
    """Activation × gradient of the logit of a class [batch], at one hook point.

    Args:
        classify: from images to logits [batch, C].
        tap: the hook point.
        batch_bchw: images.
        classes_b: int64 [batch].
    """
    import torch  # late: it takes a second to import

    with leaf_at(tap) as leaves:
        logits_bc = classify(batch_bchw)
    if not leaves:
        raise UsageError("The classifier does not use this hook point, only the embedding does. Name another one.")
    asked_b = logits_bc.gather(1, classes_b[:, None])[:, 0]
    gradient = torch.zeros_like(leaves[0])
    if asked_b.requires_grad:
        found = torch.autograd.grad(asked_b.sum(), leaves[0], allow_unused=True)[0]
        gradient = gradient if found is None else found
    acts_btd = tap.tokens(leaves[0].detach(), keep=False).float()
    gradients_btd = tap.tokens(gradient, keep=False).float()
    return ClassRelevance(acts_btd, acts_btd * gradients_btd, logits_bc.detach().float(), gradients_btd)


def told_apart(names: list[str]) -> tuple[str, ...]:
    """Return names of which no two are the same: those that stand twice get their number, as ImageNet's two cranes."""
    return tuple(f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names))


@contextmanager
def leaf_at(tap: Tap) -> Iterator[list[torch.Tensor]]:
    """While the context lasts, put a leaf that wants a gradient in the place of what a hook point gives; yield it.

    The pass goes on with a copy: CNNs rectify and add in place, which a leaf does not allow and which would change it.
    """
    leaves: list[torch.Tensor] = []

    def replace(tensor: torch.Tensor) -> torch.Tensor:
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1].clone()

    handle = attach_edit(tap, replace)
    try:
        yield leaves
    finally:
        handle.remove()


def _check_numbers(numbers_b: torch.Tensor, n_images: int, what: str, n_known: int, spec: str) -> None:
    """Check that there is one number for each image, and that what it stands for exists."""
    if tuple(numbers_b.shape) != (n_images,) or numbers_b.is_floating_point():
        raise UsageError(
            f"{n_images} images need {n_images} whole numbers, a {what} for each, not {list(numbers_b.shape)} of "
            f"{str(numbers_b.dtype).removeprefix('torch.')}."
        )
    wrong = next((int(number) for number in numbers_b if not 0 <= int(number) < n_known), None)
    if wrong is not None:
        raise UsageError(f"{spec} has the {what} numbers 0 to {n_known - 1}, no {wrong}.")
