"""Parameters and helpers of the analyses that ask a labeler: `labels`, and `label_score` where a model judges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from glasshouse.plugins.analyzer import Parameters
from glasshouse.plugins.labelers.cache import ReplyCache
from glasshouse.plugins.labelers.calls import Calls, Patience
from glasshouse.plugins.labeling import LabelerOptions

if TYPE_CHECKING:
    from glasshouse.plugins.contracts import LabelerLoader
    from glasshouse.plugins.view import AnalysisView


class CallParameters(Parameters):
    """How a service is called."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="Where a local model runs.")
    max_calls: int | None = Field(None, ge=0, description="Send at most so many requests; the rest stays open.")
    concurrency: int = Field(4, ge=1, le=64, description="Requests under way at a time.")
    requests_per_minute: float | None = Field(None, gt=0, description="Requests per minute, at most.")
    timeout: float = Field(60.0, gt=0, description="Seconds until a request counts as failed.")
    tries: int = Field(5, ge=1, description="Requests for one question when the service is busy or broken.")
    retry_failures: bool = Field(False, description="Ask again where an earlier reply was no valid answer.")


def labeler_loader(view: AnalysisView, name: str) -> LabelerLoader:
    """Return a labeler's loader by its name.

    Raises:
        UsageError: no such labeler; the known ones are listed.
    """
    from glasshouse.plugins.manager import Plugins

    plugins = view.warehouse.plugins
    known = plugins if isinstance(plugins, Plugins) else Plugins()
    return known.labelers.get(name, "`glasshouse plugins` lists them.")


def calls_for(view: AnalysisView, parameters: CallParameters, *, max_calls: int | None) -> Calls:
    """Return the machinery of one run's requests, with the warehouse's cache of replies."""
    return Calls(
        ReplyCache(view.warehouse.root / "cache" / "labels"),
        max_calls=max_calls,
        requests_per_minute=parameters.requests_per_minute,
        patience=Patience(n_tries=parameters.tries),
        ask_again=parameters.retry_failures,
    )


def labeler_options(
    view: AnalysisView,
    parameters: CallParameters,
    *,
    model: str | None,
    base_url: str | None,
    vocabulary: str | None = None,
    templates: Sequence[str] = (),
    calls: Calls | None = None,
    model_option: str = "--model",
) -> LabelerOptions:
    """Return what a labeler is told; `model_option` is where the user named the model."""
    return LabelerOptions(
        view=view,
        calls=calls,
        model=model,
        base_url=base_url,
        device=parameters.device,
        vocabulary=vocabulary,
        templates=templates,
        timeout_s=parameters.timeout,
        model_option=model_option,
    )
