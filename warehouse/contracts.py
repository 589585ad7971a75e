"""What the warehouse is handed: encoders and sparse autoencoders, as protocols.

Owns the two contracts that extraction relies on. Plugins implement them; nothing here knows an implementation.
Shapes in names: b images, t tokens, d hook width, n rows, k features, e embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

if TYPE_CHECKING:
    import duckdb
    import torch
    from PIL import Image

    from glasshouse.warehouse.intake.records import Source
    from glasshouse.warehouse.warehouse import Warehouse

TokenPolicy = Literal["cls", "patches", "mean", "max", "sum"]
"""Which tokens of a hook become rows: the CLS token, every patch token, or the patch tokens pooled into one."""

TOKEN_POLICIES: tuple[str, ...] = get_args(TokenPolicy)


@dataclass(frozen=True)
class HookPoint:
    """A place in an encoder whose output can be read.

    Attributes:
        name: for transformers `blocks.<i>.resid_post` (output of block i, before any final norm);
            for CNNs the module path, e.g. `layer4.1`.
        width: D, the size of one token's activation vector.
        n_prefix: tokens before the patch grid. Token 0 is CLS when n_prefix > 0; the others are registers.
        grid: (rows, columns) of the patch tokens in row-major order, or None where there are none.
    """

    name: str
    width: int
    n_prefix: int
    grid: tuple[int, int] | None


class ForwardResult(NamedTuple):
    """One pass: `activations[hook]` is float [batch, token, width]; `embedding_be` is [batch, E] or None."""

    activations: dict[str, torch.Tensor]
    embedding_be: torch.Tensor | None


class Encoder(Protocol):
    """A vision model that can be read at its hook points. One instance lives on one device."""

    @property
    def spec(self) -> str:
        """The name that loads it again, e.g. `open_clip:ViT-B-32/datacomp_xl_s13b_b90k`."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over weights, architecture and preprocessing. Other weights never share it."""

    @property
    def embedding_width(self) -> int:
        """E, the width of the image embedding."""

    @property
    def device(self) -> str:
        """Where the forward pass runs: `cpu` or `cuda`."""

    def hook_points(self) -> Sequence[HookPoint]:
        """Every hook point, in the order in which the forward pass reaches them."""

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Turn one RGB image of any size into a float32 CPU tensor [3, H, W]. Thread-safe."""

    def forward(self, batch_bchw: torch.Tensor, hooks: Sequence[str], *, embedding: bool = True) -> ForwardResult:
        """Run several hooks in ONE pass; without `embedding` it stops after the last block that is needed.

        Raises:
            UsageError: a hook that does not exist; the message lists those that do.
        """

    def embed_text(self, texts: Sequence[str]) -> torch.Tensor | None:
        """Text embeddings [n, E] in the image embedding's space (not normalised), or None without a text tower."""


@runtime_checkable
class FramedEncoder(Protocol):
    """What an encoder may say on top: how it cuts pictures, so that token maps can be laid over them.

    Of one that does not say it, maps are laid over the whole picture.
    """

    @property
    def framing(self) -> Mapping[str, Any] | None:
        """`resize`, `resize_to`, `crop_to`, `crop_rounding`; see `glasshouse.warehouse.showing.framing`."""


@runtime_checkable
class EditingEncoder(Protocol):
    """What an encoder may offer on top: to run on with other activations than its own, which shows what they cause."""

    def forward_edited(
        self, batch_bchw: torch.Tensor, hook: str, edit: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Run the whole pass, replacing what the hook point gives by `edit` of it; return the embedding [batch, E].

        Args:
            batch_bchw: as for `forward`.
            hook: name of a hook point.
            edit: called once, with the activations as `forward` gives them: float32 [batch, token, width], on the
                encoder's device, its own copy. It returns as many tokens of the same width. More or fewer rows than
                it was handed go on as that many images, where all that follows depends on them alone. It must not
                call the encoder.

        Raises:
            UsageError: a hook that does not exist, a batch that does not fit, or other tokens than it was handed.
        """


class ClassRelevance(NamedTuple):
    """How much each token's activations count for one class of each image.

    `activations_btd` and `relevance_btd` are float32 [batch, token, width], `logits_bc` float32 [batch, C];
    `gradients_btd` float32 [batch, token, width], of the method `gradient`: ∂ logit / ∂ activation.
    """

    activations_btd: torch.Tensor
    relevance_btd: torch.Tensor
    logits_bc: torch.Tensor
    gradients_btd: torch.Tensor | None = None


RelevanceMethod = Literal["gradient", "crp"]
"""`gradient`: activation × gradient of the logit. `crp`: relevance propagated back from the logit (LRP), as in CRP."""


@runtime_checkable
class ClassifyingEncoder(Protocol):
    """What an encoder with a classifier may offer on top: its outputs, and how they come about."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classifier's outputs in their order, numbers where the model names none; None without one."""

    def forward_logits(
        self,
        batch_bchw: torch.Tensor,
        hook: str | None = None,
        edit: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the classifier's outputs before softmax, float32 [batch, C]; with `hook` and `edit` of an edited pass.

        Args:
            batch_bchw: as for `forward`.
            hook: name of a hook point, or None for a pass as it is.
            edit: as for `EditingEncoder.forward_edited`.

        Raises:
            UsageError: no classifier, a hook that does not exist, or a batch that does not fit.
        """

    def class_relevance(
        self, batch_bchw: torch.Tensor, hook: str, classes_b: torch.Tensor, method: RelevanceMethod
    ) -> ClassRelevance:
        """Say how much what a hook point gives counts for a class's logit, token by token and neuron by neuron.

        Args:
            batch_bchw: as for `forward`.
            hook: name of a hook point.
            classes_b: the class asked about for each image, int64 [batch].
            method: how; see `RelevanceMethod`.

        Raises:
            UsageError: no classifier, a hook that does not exist, or a model that `crp` cannot propagate through.
            ModelError: `crp` without the extra `attribution`.
        """

    def component_maps(self, batch_bchw: torch.Tensor, hook: str, features_b: torch.Tensor) -> torch.Tensor:
        """Say which pixels make a neuron of a hook point active on each image: CRP, float32 [batch, H, W].

        Args:
            batch_bchw: as for `forward`.
            hook: name of a hook point.
            features_b: the neuron asked about for each image, int64 [batch].

        Raises:
            UsageError: a hook that does not exist, or a model that CRP cannot propagate through.
            ModelError: without the extra `attribution`.
        """


class SparseCodes(NamedTuple):
    """Non-zero codes of n rows, ordered by row, then feature. CPU tensors of one length, nnz.

    `row` and `feature` are int32, `value` is float32 and > 0.
    """

    row: torch.Tensor
    feature: torch.Tensor
    value: torch.Tensor


class SparseAutoencoder(Protocol):
    """A dictionary that turns activation vectors into sparse features, and back."""

    @property
    def spec(self) -> str:
        """The name that loads it again, e.g. `neurons` or a local folder."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over tensors and everything that changes their meaning (norms, activation, k)."""

    @property
    def width(self) -> int | None:
        """D that it takes, or None when it fits any width (`neurons`)."""

    @property
    def hook(self) -> str | None:
        """The hook point that it was trained on, where its checkpoint says it."""

    @property
    def tokens(self) -> str | None:
        """The tokens that it was trained on (`cls`, `patches`), where its checkpoint says it."""

    @property
    def is_lossless(self) -> bool:
        """True when decoding is exact by construction (`neurons`), so that a self-test says nothing."""

    def n_features(self, width: int) -> int:
        """F, the number of features for hook width `width`."""

    def encode(self, acts_nd: torch.Tensor) -> SparseCodes:
        """Codes of n activation vectors [n, D] (float, on the SAE's device)."""

    def decode(self, codes: SparseCodes, n_rows: int, acts_nd: torch.Tensor | None = None) -> torch.Tensor:
        """Reconstruction [n_rows, D] in the space of the encoder's activations.

        `acts_nd` are the vectors that were encoded. An SAE that normalises each vector needs them to undo that, and
        `neurons` to know D; both say so when they are missing.
        """


@runtime_checkable
class NotedSae(Protocol):
    """What an SAE may say on top: what its user should know before believing its codes."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences; none for an SAE without traps."""


class PluginSet(Protocol):
    """What the warehouse asks of the plugins that it is handed."""

    def load_encoder(self, spec: str, device: str = "cpu") -> Encoder:
        """Load an encoder from a spec that the user has typed."""

    def load_stored_encoder(self, spec: str, device: str = "cpu") -> Encoder:
        """Load an encoder from a spec that was read out of a warehouse; one that runs code needs the user's consent."""

    def load_sae(self, spec: str, device: str = "cpu") -> SparseAutoencoder:
        """Load a sparse autoencoder from its spec."""

    def source_list(self) -> Sequence[Source]:
        """Every source, in the order in which they are asked whether they claim a path."""

    def analyze(
        self,
        warehouse: Warehouse,
        name: str,
        spaces: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
    ) -> Sequence[Any]:
        """Run an analysis, and what it requires; one report for each."""

    def prepare_connection(self, connection: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> None:
        """Add the plugins' SQL functions and macros to a reading connection."""
