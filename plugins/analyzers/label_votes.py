"""Labels scored by a model that says of each image whether the label is true of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from glasshouse.plugins.analyzers.label_images import Sides, sides_of
from glasshouse.plugins.analyzers.label_measures import auc_columns, none_for_nan
from glasshouse.plugins.analyzers.label_parameters import calls_for, labeler_loader
from glasshouse.plugins.analyzers.label_score import judge_options
from glasshouse.plugins.labelers.chat import PICTURES_PER_QUESTION
from glasshouse.plugins.labelers.pool import answers_of
from glasshouse.plugins.labeling import Labeler, OutOfCalls, Unanswered
from glasshouse.schema.errors import ModelError, SourceError

if TYPE_CHECKING:
    from glasshouse.plugins.analyzers.label_score import LabelScoreParameters
    from glasshouse.plugins.view import AnalysisView


def calls_per_label(n_images: int) -> int:
    """Return the calls that a label takes."""
    return math.ceil(n_images / PICTURES_PER_QUESTION)


class Votes(NamedTuple):
    """A model's answers on the two sides of a feature; None where its reply could not be read."""

    active: Sequence[bool | None] = ()
    silent: Sequence[bool | None] = ()
    unanswered: Unanswered | None = None


@dataclass(frozen=True)
class Judging:
    """One label and the images on which it is tested."""

    view: AnalysisView
    label: str
    sides: Sides
    seed: int

    @cached_property
    def order(self) -> list[int]:
        """A random order of all images, so that the model cannot tell the sides by their place."""
        rng = np.random.default_rng((self.seed, self.sides.feature, 2))
        return [int(place) for place in rng.permutation(len(self.sides.active_p) + len(self.sides.silent_q))]

    def votes(self, labeler: Labeler) -> Votes:
        """Ask about every image that can be opened; the others count as not read."""
        from glasshouse.warehouse.showing.pictures import pictures

        images = [int(image) for image in (*self.sides.active_p, *self.sides.silent_q)]
        found = dict(pictures(self.view.warehouse, images))
        shown = [place for place in self.order if not isinstance(found[images[place]], SourceError)]
        opened = [picture for place in shown if not isinstance(picture := found[images[place]], SourceError)]
        try:
            answers = dict(zip(shown, labeler.ask_yes_no(self.label, opened), strict=True))
        except Unanswered as error:
            return Votes(unanswered=error)
        votes = [answers.get(place) for place in range(len(images))]
        return Votes(votes[: len(self.sides.active_p)], votes[len(self.sides.active_p) :])


def vlm_scores(view: AnalysisView, parameters: LabelScoreParameters, labels: dict[int, str]) -> list[dict[str, Any]]:
    """Return the rows of `label_score`, by feature; labels without a reply are left out and noted.

    Raises:
        ModelError: nobody answered anything, for another reason than the budget.
    """
    calls = calls_for(view, parameters, max_calls=parameters.max_calls)
    labeler = labeler_loader(view, parameters.judge).load(judge_options(view, parameters, calls))
    n_active, n_silent = int(parameters.n_positive or 0), int(parameters.n_negative or 0)
    both = sides_of(view, list(labels), n_active, n_silent, parameters.seed, view.image_ids)
    questions = [Judging(view, labels[sides.feature], sides, parameters.seed) for sides in both]
    rows, reasons = [], []
    answers = answers_of(questions, lambda question: question.votes(labeler), calls, parameters.concurrency)
    for n_done, (question, votes) in enumerate(answers, start=1):
        if votes.unanswered is None:
            rows.append({"feature_id": question.sides.feature, "label": question.label, **_row(votes)})
        else:
            reasons.append(votes.unanswered)
        view.progress(n_done, len(questions))
    broken = [reason for reason in reasons if not isinstance(reason, OutOfCalls)]
    if broken and not rows:
        raise ModelError(f"No label could be scored: {broken[0].reason}. Run the same command again later.")
    view.note(n_calls=calls.n_sent, n_from_cache=calls.n_cached, n_unscored=len(reasons), summary=_summary(rows))
    if reasons:
        view.note(incomplete=f"{len(reasons)} not scored ({min(reason.reason for reason in reasons)})")
    return sorted(rows, key=lambda row: int(row["feature_id"]))


def _summary(rows: list[dict[str, Any]]) -> str:
    """Say in few words what came of it: labels with an AUC, and answers that are missing."""
    n_scored = sum(row["auc"] is not None for row in rows)
    n_unread = sum(row["n_parse_failures"] for row in rows)
    text = f"{n_scored} label{'' if n_scored == 1 else 's'} scored"
    return f"{text}, {n_unread} picture{'' if n_unread == 1 else 's'} without a readable answer" if n_unread else text


def _row(votes: Votes) -> dict[str, Any]:
    """Return the figures of one feature. Yes is 1 and no is 0, so the AUC is the balanced accuracy."""
    active, silent = ([float(vote) for vote in side if vote is not None] for side in (votes.active, votes.silent))
    n_asked = len(votes.active) + len(votes.silent)
    auc = float(auc_columns(np.array(active)[:, None], np.array(silent)[:, None])[0])
    return {
        "auc": none_for_nan(auc),
        "balanced_accuracy": none_for_nan(auc),
        "auc_random": None,
        "beats_random": None,
        "n_positive": len(votes.active),
        "n_negative": len(votes.silent),
        "n_parse_failures": n_asked - len(active) - len(silent),
    }
