"""Components that are switched off: as an edit of a pass, as a forward hook on a user's own model, as a JSON file.

Of neurons, a component's activation becomes a constant on every token of the space: 0, or its mean over reference
images. Of an SAE's features, their codes become that and x' = x + decode(code') − decode(code), so that what the SAE
does not explain stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from glasshouse.plugins.encoders.tapping import Tap, attach_edit
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.atomic import replacing
from glasshouse.warehouse.contracts import SparseCodes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from glasshouse.warehouse.contracts import SparseAutoencoder

FORMAT = 1


@dataclass(frozen=True)
class Pruning:
    """Components of one hook point, and the constants that they become.

    Attributes:
        encoder: spec of the encoder.
        fingerprint: of its weights.
        hook: name of the hook point.
        module: path of the module in the model, as `named_modules` gives it; None where it is not known.
        side: whether the module's output is changed, or its (first) input.
        layout: of that tensor: `tokens` [b, t, d], `nchw` or `nhwc`.
        first: the first token that is changed: 0, or behind CLS and registers.
        only_first: CLS alone is changed.
        sae: spec of the SAE whose features the components are, or `neurons`.
        to: `zero` or `mean`.
        components: feature ids, ascending.
        values: what each becomes.
    """

    encoder: str
    fingerprint: str
    hook: str
    module: str | None
    side: Literal["output", "input"]
    layout: Literal["tokens", "nchw", "nhwc"]
    first: int
    only_first: bool
    sae: str
    to: str
    components: tuple[int, ...]
    values: tuple[float, ...]

    def edit(self, sae: SparseAutoencoder | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what is done to activations [batch, token, width], in place.

        Args:
            sae: the SAE, where the components are its features.

        Raises:
            UsageError: the SAE is needed and not given.
        """
        if self.sae == "neurons":
            return self._set_neurons
        if sae is None:
            raise UsageError(f"The components are features of the SAE {self.sae}: give it, e.g. load_sae(…).")
        return lambda acts_btd: self._set_codes(acts_btd, sae)

    @property
    def tokens(self) -> slice:
        """The tokens that are changed."""
        return slice(0, 1) if self.only_first else slice(self.first, None)

    def _set_neurons(self, acts_btd: torch.Tensor) -> torch.Tensor:
        if max(self.components) >= acts_btd.shape[-1]:
            raise UsageError(
                f"Component {max(self.components)} of {self.encoder} is switched off, and '{self.module}' of this "
                f"model has {acts_btd.shape[-1]}: it is another model."
            )
        acts_btd[:, self.tokens, list(self.components)] = acts_btd.new_tensor(self.values)
        return acts_btd

    def _set_codes(self, acts_btd: torch.Tensor, sae: SparseAutoencoder) -> torch.Tensor:
        tokens_btd = acts_btd[:, self.tokens]
        acts_nd = tokens_btd.reshape(-1, tokens_btd.shape[-1])
        codes = sae.encode(acts_nd)
        delta_nd = sae.decode(changed_codes(codes, len(acts_nd), self.components, self.values), len(acts_nd), acts_nd)
        delta_nd = delta_nd - sae.decode(codes, len(acts_nd), acts_nd)
        acts_btd[:, self.tokens] = tokens_btd + delta_nd.reshape(tokens_btd.shape).to(tokens_btd)
        return acts_btd

    def attach(self, model: nn.Module, sae: SparseAutoencoder | None = None) -> Any:
        """Switch the components off in a model of the user's own; returns a handle with `remove()`.

        Args:
            model: the network that the encoder was made of, e.g. `timm.create_model(…)` with the same weights.
            sae: the SAE, where the components are its features.

        Raises:
            UsageError: the model has no such module.
        """
        modules = dict(model.named_modules())
        if self.module is None or self.module not in modules:
            raise UsageError(f"The model has no module '{self.module}'; the components are those of {self.encoder}.")
        tap, edit = Tap(modules[self.module], self.side, self.layout), self.edit(sae)

        def action(tensor: torch.Tensor) -> torch.Tensor:
            return tap.replaced(tensor, edit(tap.tokens(tensor, keep=False).clone()))

        return attach_edit(tap, action)

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        with replacing(file) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")


def read_pruning(file: str | Path) -> Pruning:
    """Read what `Pruning.write` wrote.

    Raises:
        ModelError: the file is no pruning.
    """
    path = Path(file)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("format") != FORMAT:
            raise ModelError(f"{path} is of a newer format. Read it with the glasshouse that wrote it.")
        return Pruning(**{**stored, "components": tuple(stored["components"]), "values": tuple(stored["values"])})
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} is no pruning. `glasshouse prune --hook FILE` writes them.") from error


def changed_codes(codes: SparseCodes, n_rows: int, components: Sequence[int], values: Sequence[float]) -> SparseCodes:
    """Return codes in which some features have a constant value in every row; 0 takes them away.

    Args:
        codes: of `n_rows` rows.
        n_rows: n.
        components: features, distinct.
        values: of each, at least 0.
    """
    import torch  # late: it takes a second to import

    row, feature, value = (part.cpu().numpy() for part in codes)
    kept = ~np.isin(feature, np.array(components))
    here = [(component, value_) for component, value_ in zip(components, values, strict=True) if value_ > 0]
    rows = np.concatenate([row[kept], np.tile(np.arange(n_rows, dtype=np.int32), len(here))])
    features = np.concatenate([feature[kept], np.repeat(np.array([c for c, _ in here], np.int32), n_rows)])
    changed = np.concatenate([value[kept], np.repeat(np.array([v for _, v in here], np.float32), n_rows)])
    order = np.lexsort((features, rows))
    parts = (rows[order].astype(np.int32), features[order].astype(np.int32), changed[order].astype(np.float32))
    return SparseCodes(*(torch.from_numpy(part) for part in parts))
