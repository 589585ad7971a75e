"""Names of features, given by a labeler. Results add to each other: of each feature the newest label counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer
from glasshouse.plugins.analyzers.label_parameters import CallParameters, calls_for, labeler_loader, labeler_options
from glasshouse.plugins.analyzers.label_questions import Questioner, choose_features, questioner
from glasshouse.plugins.labelers.pool import answers_of
from glasshouse.plugins.labelers.replies import cleaned, kept_reply
from glasshouse.plugins.labeling import BadReply, FeatureLabel, Labeler, OutOfCalls, Unanswered
from glasshouse.schema.errors import GlasshouseError, ModelError, SourceError, UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.labelers.calls import Calls
    from glasshouse.plugins.view import AnalysisView


class LabelParameters(CallParameters):
    """Parameters of `labels`."""

    labeler: str = Field("vocabulary", description="Who names the features; `glasshouse plugins` lists the labelers.")
    model: str | None = Field(None, description="The labeler's model; by default the labeler's own choice.")
    base_url: str | None = Field(None, description="Address of the service, where it is not the provider's own.")
    features: tuple[int, ...] = Field((), description="A feature to label; by default the best `n` are chosen.")
    n: int = Field(50, ge=1, description="How many features are chosen: by tier, then by MS, then by activity.")
    n_images: int = Field(9, ge=1, le=50, description="Strongest images that are shown of each feature.")
    vocabulary: str | None = Field(None, description="File of words for the labeler `vocabulary`, one per line.")
    template: tuple[str, ...] = Field(
        (), description="A text with {} for the words of `vocabulary`; without the word it is subtracted."
    )


class Result(NamedTuple):
    """What came of one feature: a label, or a failure with the reply's text, or neither and why."""

    label: FeatureLabel | None = None
    failure: str | None = None
    reply: str | None = None
    unanswered: Unanswered | None = None


class Labels(Analyzer[LabelParameters]):
    """Name features: a short label, a description, what is seen, and how sure the labeler is.

    `vocabulary` works offline; `gemini`, `openai` and `local` show the strongest images to a model. A reply that is no
    valid label is kept as a failure: its row has no label, but the reply's text.
    """

    summary = "Names of features: from a vocabulary, a service or a local model"
    parameters = LabelParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            ("label", pa.string()),
            ("description", pa.string()),
            ("visual_elements", pa.list_(pa.string())),
            ("rating_effect", pa.string()),
            ("confidence", pa.float64()),
            ("labeler", pa.string()),
            ("model", pa.string()),
            ("failure", pa.string()),
            ("reply", pa.string()),
        ]
    )
    facets = ("labeler", "model")
    in_features = ("label",)
    is_incremental = True

    def resolve(self, view: AnalysisView, parameters: LabelParameters) -> LabelParameters:
        """Fill in the labeler's model and address.

        Raises:
            UsageError: no such labeler, it lacks something that can be seen before loading it, or takes no templates.
        """
        if parameters.template and labeler_loader(view, parameters.labeler).sees_pictures:
            raise UsageError(
                f"--template is for the words of a vocabulary, and the labeler '{parameters.labeler}' has none. Leave "
                "it away, or use --labeler vocabulary."
            )
        options = labeler_options(
            view,
            parameters,
            model=parameters.model,
            base_url=parameters.base_url,
            vocabulary=parameters.vocabulary,
            templates=parameters.template,
        )
        resolved = labeler_loader(view, parameters.labeler).resolve(options)
        vocabulary = None if parameters.vocabulary is None else view.portable(parameters.vocabulary)
        chosen = {"model": resolved.model, "base_url": resolved.base_url, "vocabulary": vocabulary}
        return parameters.model_copy(update=chosen)

    def asks_a_service(self, view: AnalysisView, parameters: LabelParameters) -> bool:
        """Whether the labeler is somebody else's."""
        return labeler_loader(view, parameters.labeler).is_remote

    def preview(self, view: AnalysisView, parameters: LabelParameters) -> str:
        """Say how many requests it would take, and show the first feature's prompt."""
        chosen = choose_features(view, parameters.features, parameters.n)
        head = f"{view.space}: {_counted(len(chosen.features), 'feature')}, chosen by {chosen.by}, {_who(parameters)}"
        loader = labeler_loader(view, parameters.labeler)
        if not loader.sees_pictures:
            return f"{head}: 0 calls; it sees no pictures and sends no prompt."
        asker = questioner(view, chosen.features, parameters.n_images, with_pictures=True)
        n_open, n_cached, hindrance = len(chosen.features), 0, ""
        if loader.is_remote:
            calls = calls_for(view, parameters, max_calls=0)
            try:
                labeler = self._load(view, parameters, calls)
            except GlasshouseError as error:
                hindrance = str(error)
            else:
                results = [_asked(labeler, asker, feature) for feature in chosen.features]
                n_open, n_cached = sum(result.unanswered is not None for result in results), calls.n_cached
        limit = "" if parameters.max_calls is None else f" (--max-calls allows {parameters.max_calls})"
        lines = [f"{head}: {_counted(n_open, 'call')}{limit}, {_counted(n_cached, 'answer')} from the cache."]
        lines += [f"It cannot run yet: {hindrance}"] if hindrance else []
        return "\n".join([*lines, *_prompt_lines(asker, chosen.features)])

    def run(self, view: AnalysisView, parameters: LabelParameters) -> pa.Table:
        """Label the features that are named or chosen.

        Raises:
            ModelError: the labeler cannot be loaded, refuses the key, or answers nobody.
            UsageError: a feature or something that the labeler needs is not there.
        """
        chosen = choose_features(view, parameters.features, parameters.n)
        calls = calls_for(view, parameters, max_calls=parameters.max_calls)
        labeler = self._load(view, parameters, calls)
        with_pictures = labeler_loader(view, parameters.labeler).sees_pictures
        asker = questioner(view, chosen.features, parameters.n_images, with_pictures=with_pictures)
        view.progress(0, len(chosen.features))
        results: dict[int, Result] = {}
        for feature, result in answers_of(
            chosen.features, lambda feature: _asked(labeler, asker, feature), calls, parameters.concurrency
        ):
            results[feature] = result
            view.progress(len(results), len(chosen.features))
        _note(view, chosen.by, results, calls)
        return _table(results, parameters.labeler, labeler.model)

    def _load(self, view: AnalysisView, parameters: LabelParameters, calls: Calls) -> Labeler:
        options = labeler_options(
            view,
            parameters,
            model=parameters.model,
            base_url=parameters.base_url,
            vocabulary=parameters.vocabulary,
            templates=parameters.template,
            calls=calls,
        )
        return labeler_loader(view, parameters.labeler).load(options)


def _asked(labeler: Labeler, asker: Questioner, feature: int) -> Result:
    """Ask about one feature."""
    try:
        return Result(label=labeler.label(asker.question(feature)))
    except BadReply as error:
        return Result(failure=error.reason, reply=kept_reply(error.reply))
    except SourceError as error:
        return Result(failure=f"nothing can be shown of it: {error}")
    except Unanswered as error:
        return Result(unanswered=error)


def _counted(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _who(parameters: LabelParameters) -> str:
    place = f" at {parameters.base_url}" if parameters.base_url else ""
    return f"labelled by {parameters.labeler} ({parameters.model}{place})"


def _prompt_lines(asker: Questioner, features: Sequence[int]) -> list[str]:
    """Return the first feature's prompt and which pictures go with it."""
    for feature in features:
        try:
            question = asker.question(feature)
        except SourceError:
            continue
        shown = ", ".join(str(example.image_id) for example in question.examples)
        return [f"Feature {feature} is shown with the images {shown}, and asked about with:", "", question.prompt]
    return ["Nothing can be shown of any of them."]


def _note(view: AnalysisView, by: str, results: dict[int, Result], calls: Calls) -> None:
    """Note what was chosen, what it took and what stays open.

    Raises:
        ModelError: nobody answered anything, for another reason than the budget.
    """
    reasons = [result.unanswered for result in results.values() if result.unanswered is not None]
    broken = [reason for reason in reasons if not isinstance(reason, OutOfCalls)]
    if broken and len(broken) == len(results):
        raise ModelError(f"No feature could be labelled: {broken[0].reason}. Run the same command again later.")
    view.note(
        chosen_by=by,
        n_labels=sum(result.label is not None for result in results.values()),
        n_failures=sum(result.failure is not None for result in results.values()),
        summary=_summary(results),
        n_unlabelled=len(reasons),
        n_calls=calls.n_sent,
        n_from_cache=calls.n_cached,
    )
    if reasons:
        why = sorted({reason.reason for reason in reasons})
        view.note(unlabelled_because=why[:5], incomplete=f"{len(reasons)} without a reply ({why[0]})")


def _summary(results: dict[int, Result]) -> str:
    """Say in few words what came of it, e.g. `0 labels, 3 failures (the reply is empty)`."""
    text = _counted(sum(result.label is not None for result in results.values()), "label")
    failures = [result.failure for _, result in sorted(results.items()) if result.failure is not None]
    return f"{text}, {_counted(len(failures), 'failure')} ({cleaned(failures[0], 120)})" if failures else text


def _visible(text: str) -> str:
    """Return a labeler's text as one line without control and format characters, whoever wrote the labeler."""
    return cleaned(text, len(text))


def _table(results: dict[int, Result], labeler: str, model: str) -> pa.Table:
    """Return a row for each feature that has a label or a failure, by feature."""
    rows = []
    for feature, result in sorted(results.items()):
        if result.label is None and result.failure is None:
            continue
        label = result.label
        rows.append(
            {
                "feature_id": feature,
                "label": _visible(label.label) if label else None,
                "description": (_visible(label.description) or None) if label else None,
                "visual_elements": [_visible(element) for element in label.visual_elements] if label else None,
                "rating_effect": (_visible(label.rating_effect) or None) if label else None,
                "confidence": label.confidence if label else None,
                "labeler": labeler,
                "model": model,
                "failure": result.failure,
                "reply": result.reply,
            }
        )
    return pa.Table.from_pylist(rows, schema=Labels.schema)
