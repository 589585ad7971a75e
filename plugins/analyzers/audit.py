"""Analyzer `audit`: does a classifier look at what it should? Components against concepts that are valid and spurious.

Definition (SemanticLens, arXiv 2501.05398): a component's alignment with a set of concepts is the largest similarity of
its concept vector to one of them (text probe); a component that counts for the class and is more alike something
spurious than anything valid is flagged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.plugins.analyzers.audit_alignment import Alignments, alignments, concept_run, concepts_of
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.results.store import latest_run

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

SIDES = ("valid", "spurious")
SHIPPED = "or the name of a list that ships with glasshouse, e.g. melanoma-valid"


class AuditParameters(Parameters):
    """Parameters of `audit`."""

    class_name: str = Field("", description="The class that is audited.")
    valid: Path | None = Field(None, description="Text file of concepts the class may rest on, or a shipped list.")
    spurious: Path | None = Field(None, description="Text file of concepts it should not rest on, or a shipped list.")
    template: tuple[str, ...] = Field(
        ("{}",), description="A sentence that a concept is put into; its empty form is subtracted."
    )
    embedding: str | None = Field(None, description="Of the concept vectors; by default that of the newest ones.")
    crop: bool | None = Field(
        None, description="Concept vectors of cut-outs or of whole images; by default the newest."
    )
    by: Literal["activation", "relevance"] | None = Field(
        None, description="Concept vectors of examples by activation or by relevance; by default the newest."
    )
    centre: bool = Field(False, description="Subtract the mean image embedding from the concept vectors.")
    method: str | None = Field(None, description="Of the relevance; by default that of the newest result.")
    min_share: float | None = Field(
        None, ge=0, le=1, description="Share of the class's relevance from which a component can be flagged. [1/F]"
    )
    margin: float = Field(0.0, ge=0, description="By how much the spurious alignment must exceed the valid one.")


class Audit(Analyzer[AuditParameters]):
    """Alignment of each component with valid and spurious concepts, beside how much it counts for the class."""

    summary = "Which components a class rests on that are more alike something spurious than anything valid"
    parameters: ClassVar[type[Parameters]] = AuditParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            ("class_name", pa.string()),
            ("valid", pa.float64()),
            ("valid_concept", pa.string()),
            ("spurious", pa.float64()),
            ("spurious_concept", pa.string()),
            ("relevance", pa.float64()),
            ("share", pa.float64()),
            ("is_flagged", pa.bool_()),
            ("image_ids", pa.list_(pa.int32())),
        ]
    )
    facets = ("class_name",)

    def resolve(self, view: AnalysisView, parameters: AuditParameters) -> AuditParameters:
        """See that class and concepts are given.

        Raises:
            UsageError: one is not, or a concept is in both files; says what to type.
        """
        if not parameters.class_name:
            raise UsageError("Say which class is audited: --class-name NAME.")
        _sets(view, parameters)
        chosen: dict[str, Any] = {side: Path(view.portable(getattr(parameters, side))) for side in SIDES}
        # What is there already is recorded by name, so that an audit of other vectors is another one.
        if latest_run(view.warehouse.catalogue, "concepts", view.space) is not None:
            facets = concept_run(view, parameters.model_dump()).facets
            chosen |= {"embedding": facets["embedding"], "crop": facets["crop"], "by": facets.get("by", "activation")}
        if latest_run(view.warehouse.catalogue, "relevance", view.space) is not None:
            chosen |= _relevance_facets(view, parameters)
        return parameters.model_copy(update=chosen)

    def requires_with(self, view: AnalysisView, parameters: AuditParameters) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Concept vectors and relevance: as they were run where they are stale, with defaults where there are none."""
        catalogue = view.warehouse.catalogue
        needed: list[tuple[str, Mapping[str, Any]]] = []
        if latest_run(catalogue, "concepts", view.space) is None:
            needed.append(("concepts", {}))
        elif (concepts := concept_run(view, parameters.model_dump())).is_stale:
            needed.append(("concepts", concepts.parameters))
        relevance = latest_run(catalogue, "relevance", view.space)
        if relevance is not None:
            relevance = latest_run(catalogue, "relevance", view.space, _relevance_facets(view, parameters))
        if relevance is None or relevance.is_stale:
            needed.append(("relevance", {} if relevance is None else relevance.parameters))
        return needed

    def run(self, view: AnalysisView, parameters: AuditParameters) -> pa.Table:
        """Compare every component that has a concept vector with both sets of concepts."""
        valid, spurious = _sets(view, parameters)
        run = concept_run(view, parameters.model_dump())
        found = alignments(view, run, valid, spurious, parameters.template, centre=parameters.centre)
        least = parameters.min_share if parameters.min_share is not None else 1 / view.n_features
        facets = _relevance_facets(view, parameters)
        frame = _with_relevance(view, found, facets, parameters, least)
        flagged = frame.filter("is_flagged")
        n, share = flagged.height, float(flagged["share"].sum())
        view.note(
            n_flagged=n,
            share_flagged=share,
            min_share=least,
            relevance=facets["method"],
            embedding=run.facets["embedding"],
            summary=f"{n} of {frame.height} components flagged for '{parameters.class_name}', "
            f"with {share:.1%} of its relevance",
        )
        return frame.select(self.schema.names).to_arrow().cast(self.schema)


def _sets(view: AnalysisView, parameters: AuditParameters) -> tuple[list[str], list[str]]:
    """Return the valid and the spurious concepts.

    Raises:
        UsageError: a file is not named or cannot be read, or a concept is in both.
    """
    found = []
    for side in SIDES:
        path = getattr(parameters, side)
        if path is None:
            raise UsageError(f"Give the {side} concepts, one per line: --{side} FILE, {SHIPPED}.")
        found.append(concepts_of(view, path))
    both = sorted(set(found[0]) & set(found[1]))
    if both:
        raise UsageError(f"'{both[0]}' is among the valid and among the spurious concepts. Take it out of one file.")
    return found[0], found[1]


def _relevance_facets(view: AnalysisView, parameters: AuditParameters) -> dict[str, str]:
    """Return the facets of the relevance that is read.

    Raises:
        UsageError: it was never computed by this method.
    """
    facets = {} if parameters.method is None else {"method": parameters.method}
    run = latest_run(view.warehouse.catalogue, "relevance", view.space, facets)
    if run is None:
        option = f" --method {parameters.method}" if parameters.method else ""
        raise UsageError(
            f"How much features count for '{parameters.class_name}' is not known. Run `glasshouse analyze relevance "
            f"--space {view.space}{option}`."
        )
    return {"method": str(run.facets["method"])}


def _with_relevance(
    view: AnalysisView, found: Alignments, facets: dict[str, str], parameters: AuditParameters, least: float
) -> pl.DataFrame:
    """Join alignment with relevance, and flag what has at least the share `least`.

    Raises:
        UsageError: relevance is not known for the class.
    """
    rows = view.result("relevance", facets)
    own = rows.filter(class_name=parameters.class_name)
    if own.is_empty():
        known = sorted(rows["class_name"].unique())
        raise UsageError(
            f"What counts for the class '{parameters.class_name}' is not known in the space '{view.space}'. The newest "
            f"`relevance` ({facets['method']}) has {', '.join(known[:20]) or 'no class'}; a class has none when no "
            "image is of it, or when it was not asked about (--classes)."
        )
    frame = pl.DataFrame(found._asdict()).join(
        own.select("feature_id", "relevance", "share", "image_ids"), on="feature_id", how="left"
    )
    is_spurious = pl.col("spurious") > pl.col("valid") + parameters.margin
    return frame.with_columns(
        pl.col("relevance", "share").fill_null(0.0), class_name=pl.lit(parameters.class_name)
    ).with_columns(is_flagged=is_spurious & (pl.col("share") >= least) & (pl.col("share") > 0))
