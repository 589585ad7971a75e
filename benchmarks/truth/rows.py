"""The figures of truth as rows of the table: what was found, the control in `against`, the target as it was set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say
from benchmarks.truth import ablate, labels, monosemanticity, probe, ratings, search, segment
from benchmarks.truth.name_rows import name_rows
from benchmarks.truth.world import SPACES, World, build_world
from glasshouse.plugins.starter.world.vocabulary import CORE_ATTRIBUTES

N_IMAGES, N_IMAGES_QUICK = 2000, 300
N_SEGMENTED, N_SEGMENTED_QUICK = 700, 60


def run(setting: Setting) -> Iterator[Row]:
    """Yield search, ratings, labels and monosemanticity on one rendered world."""
    n_images, spaces = (N_IMAGES_QUICK, SPACES[-1:]) if setting.quick else (N_IMAGES, SPACES)
    say(f"  rendering {n_images:,} images, extracting them and the controls")
    folder = setting.scratch / "truth"
    folder.mkdir()
    world = build_world(folder, n_images)
    try:
        for part in (
            search_rows,
            rating_rows,
            label_rows,
            label_score_rows,
            name_rows,
            monosemanticity_rows,
            probe_rows,
            ablate_rows,
        ):
            yield from part(world, spaces)
    finally:
        world.warehouse.close()
    yield from segment_rows(setting)


def segment_rows(setting: Setting) -> Iterator[Row]:
    """Yield the mean IoU of concepts with masks, by attribute, and that of features and controls beside it."""
    folder = setting.scratch / "segment"
    folder.mkdir()
    warehouse = segment.segment_world(folder, N_SEGMENTED_QUICK if setting.quick else N_SEGMENTED)
    try:
        for attribute in segment.GROUPS:
            found = segment.segmentation(warehouse, attribute)
            against = (
                f"features {found.features:.2f}, texts shuffled {found.shuffled:.2f}, "
                f"untrained encoder {found.untrained:.2f}"
            )
            yield Row("truth", f"segment: mean IoU with masks, {attribute}", f"{found.concepts:.3f}", against)
            what = f"segment: the same with a word for the background, {attribute}"
            yield Row("truth", what, f"{found.with_background:.3f}")
    finally:
        warehouse.close()


def search_rows(world: World, spaces: Sequence[str]) -> Iterator[Row]:
    """Yield the share of words whose first feature shows them, by space and way of searching, and images by words."""
    for space in spaces:
        shuffled, untrained = (search.found_values(world, f"{kind}_{space}") for kind in ("shuffled", "untrained"))
        for way in search.WAYS:
            found = search.found_values(world, space, way)
            against = f"shuffled {shuffled:.2f}, untrained encoder {untrained:.2f}" if way == "plain" else ""
            what = f"search, {space}, {way}: of the 36 values the first feature shows"
            yield Row("truth", what, f"{found:.3f}", against, target=">= 0.97", met=found >= 0.97)
        found = search.found_general(world, space)
        against = f"shuffled {search.found_general(world, f'shuffled_{space}'):.2f}"
        what = f"search, {space}: of the general words the first feature shows"
        yield Row("truth", what, f"{found:.3f}", against, target="1", met=found == 1)
    yield Row("truth", "search for images: of the first ten for a word show it", f"{search.images_right(world):.3f}")


def rating_rows(world: World, spaces: Sequence[str]) -> Iterator[Row]:
    """Yield where planted values stand among a rating's features, and what is found where nothing was planted."""
    for space in spaces:
        for method in ratings.METHODS:
            found = ratings.planted(world, space, method)
            for dimension, one in found.items():
                places = ", ".join(f"{place.attribute} {place.place + 1} (r {place.r:.2f})" for place in one.places)
                met = ratings.is_first(dimension, one)
                what = f"ratings, {space}, {method}: places of what was planted in {dimension}"
                against = f"first unrelated feature {one.first_unrelated + 1}"
                yield Row("truth", what, places, against, target="q < .05, before the unrelated", met=met)
            n_noise = sum(ratings.n_found(world, space, ratings.CONTROLS, method).values())
            n_planted = sum(ratings.n_found(world, space, (*ratings.PLANTED,), method).values())
            what = f"ratings, {space}, {method}: found in luck and shuffled ratings"
            yield Row("truth", what, f"{n_noise}", f"planted {n_planted}", target="0", met=n_noise == 0)


def label_rows(world: World, spaces: Sequence[str]) -> Iterator[Row]:
    """Yield the share of pure features whose label, and whose first word of `soft_wpmi`, is right."""
    for space in spaces:
        one = labels.named(world, space)
        what = f"labels, {space}: vocabulary right for {one.n_pure} pure features"
        against = f"labels shuffled {one.shuffled:.2f}"
        yield Row("truth", what, f"{one.right:.3f}", against, target=">= 0.8", met=one.right >= 0.8)
        yield Row("truth", f"labels, {space}: the same with the default list", f"{one.default:.3f}")
        words = labels.first_words(world, space, space)
        control = labels.first_words(world, labels.shuffled(space), space)
        yield Row("truth", f"soft_wpmi, {space}: first word right", f"{words:.3f}", f"codes shuffled {control:.2f}")


def label_score_rows(world: World, spaces: Sequence[str]) -> Iterator[Row]:
    """Yield how often `label_score` tells a right label from a wrong one, and what it makes of given labels."""
    for space in spaces:
        one = labels.ranked(world, space)
        what, measured = f"label_score, {space}: right label above a random one", f"{one.right_above_wrong:.3f}"
        against, met = f"random above random {one.other_above_wrong:.2f}", one.right_above_wrong >= 0.95
        yield Row("truth", what, measured, against, target=">= 0.95", met=met)
        kinds = {"trained": space, "untrained": f"untrained_{space}", "shuffled": labels.shuffled(space)}
        auc = {kind: labels.scores_of_labels(world, name)[1]["auc"] for kind, name in kinds.items()}
        what = f"label_score, {space}: mean AUC of the vocabulary's labels"
        against = f"untrained encoder {auc['untrained']:.2f}, shuffled {auc['shuffled']:.2f}"
        yield Row("truth", what, f"{auc['trained']:.3f}", against)


def monosemanticity_rows(world: World, spaces: Sequence[str]) -> Iterator[Row]:
    """Yield the chance that a feature scores above a neuron, and above features that mean nothing."""
    for variant in ("all", "top"):
        names = (*spaces, "neurons", *monosemanticity.CONTROLS)
        scores = {name: monosemanticity.scores(world, name, variant) for name in names}
        for space in spaces:
            auc = {name: monosemanticity.auc(scores[space], scores[name]) for name in names}
            means = f"mean {scores[space].mean():.3f}, of neurons {scores['neurons'].mean():.3f}"
            what = f"monosemanticity, {space}, {variant}: AUC against neurons"
            yield Row("truth", what, f"{auc['neurons']:.3f}", means, target="> 0.5", met=auc["neurons"] > 0.5)
            against = f"shuffled {auc['shuffled_cls']:.2f}, untrained encoder {auc['untrained_cls']:.2f}"
            what = f"monosemanticity, {space}, {variant}: AUC against random activations"
            yield Row("truth", what, f"{auc['random']:.3f}", against, target="> 0.5", met=auc["random"] > 0.5)


def probe_rows(world: World, spaces: Sequence[str]) -> Iterator[Row]:
    """Yield how far the concepts' probe is from that of the embedding, by attribute."""
    for space in spaces:
        untrained = probe.probed(world, f"untrained_{space}")
        for attribute, one in probe.probed(world, space).items():
            what = f"probe, {space}: accuracy for {attribute} with {one.n_concepts} concepts"
            against = (
                f"embedding {one.embedding:.3f}, most frequent {one.majority:.2f}, shuffled {one.shuffled:.2f}, "
                f"untrained encoder {untrained[attribute].accuracy:.2f}"
            )
            yield Row("truth", what, f"{one.accuracy:.3f}", against, target="embedding - 0.05", met=one.holds)


def ablate_rows(world: World, spaces: Sequence[str]) -> Iterator[Row]:
    """Yield how often taking out a value's pure feature moves that value's score most, and what CLS knows already."""
    rest = tuple(name for name in CORE_ATTRIBUTES if name not in ablate.KNOWN_TO_CLS)
    for space in spaces:
        one = ablate.ablated(world, space)
        share, against = one.share(), f"as frequent {one.share('feature'):.2f}, random {one.share('direction'):.2f}"
        what = f"ablate, {space}: of {len(one.moved)} values' pure features move their value most"
        yield Row("truth", what, f"{share:.3f}", against, target=">= 0.9", met=share >= ablate.TARGET)
        yield Row("truth", f"{what}, or one in which they are pure too", f"{one.share('also'):.3f}")
        if space == "patches":
            left = ablate.without_patches(world)
            known = ", ".join(f"{name} {left[name][1]:.2f}" for name in ablate.KNOWN_TO_CLS)
            yield Row(
                "truth", f"{what}, without {known}", f"{one.share('moved', rest):.3f}", "zero-shot without patches"
            )
