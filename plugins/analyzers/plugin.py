"""Registers the built-in analyses, late, so that commands which analyse nothing do not wait for their libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl

if TYPE_CHECKING:
    from glasshouse.plugins.analyzer import Analyzer
    from glasshouse.plugins.hookspecs import Register


@hookimpl
def register_analyzers(register: Register[Analyzer[Any]]) -> None:
    """Register every built-in analysis, in the order of their use."""
    from glasshouse.plugins.analyzers.ablate import Ablate
    from glasshouse.plugins.analyzers.audit import Audit
    from glasshouse.plugins.analyzers.clarity import Clarity
    from glasshouse.plugins.analyzers.comparison import Comparison
    from glasshouse.plugins.analyzers.concepts import Concepts
    from glasshouse.plugins.analyzers.consistency import Consistency
    from glasshouse.plugins.analyzers.cooccurrence import Cooccurrence
    from glasshouse.plugins.analyzers.correlation import Correlation
    from glasshouse.plugins.analyzers.examples import ExamplesAnalyzer
    from glasshouse.plugins.analyzers.hierarchy import Hierarchy
    from glasshouse.plugins.analyzers.impurity import Impurity
    from glasshouse.plugins.analyzers.label_score import LabelScore
    from glasshouse.plugins.analyzers.labels import Labels
    from glasshouse.plugins.analyzers.locality import Locality
    from glasshouse.plugins.analyzers.monosemanticity import Monosemanticity
    from glasshouse.plugins.analyzers.names import Names
    from glasshouse.plugins.analyzers.polysemanticity import Polysemanticity
    from glasshouse.plugins.analyzers.probe import ProbeAnalyzer
    from glasshouse.plugins.analyzers.redundancy import Redundancy
    from glasshouse.plugins.analyzers.relevance import Relevance
    from glasshouse.plugins.analyzers.segment import Segment
    from glasshouse.plugins.analyzers.soft_wpmi import SoftWpmi
    from glasshouse.plugins.analyzers.tiers import Tiers
    from glasshouse.plugins.analyzers.uniqueness import Uniqueness

    register("monosemanticity", Monosemanticity())
    register("correlation", Correlation())
    register("tiers", Tiers())
    register("uniqueness", Uniqueness())
    register("soft_wpmi", SoftWpmi())
    register("examples", ExamplesAnalyzer())
    register("concepts", Concepts())
    register("clarity", Clarity())
    register("polysemanticity", Polysemanticity())
    register("redundancy", Redundancy())
    register("comparison", Comparison())
    register("labels", Labels())
    register("label_score", LabelScore())
    register("cooccurrence", Cooccurrence())
    register("locality", Locality())
    register("consistency", Consistency())
    register("impurity", Impurity())
    register("hierarchy", Hierarchy())
    register("names", Names())
    register("probe", ProbeAnalyzer())
    register("segment", Segment())
    register("ablate", Ablate())
    register("relevance", Relevance())
    register("audit", Audit())
