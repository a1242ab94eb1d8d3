"""The report of an order test: a self-contained HTML page with example clips, and the files that accompany it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videomem.experiments import html, permutations
from videomem.experiments.clips import shown_frames
from videomem.experiments.drawing import shorten
from videomem.experiments.html import Example, Picture, ScoredExample, Strip
from videomem.experiments.memories import head_sentence
from videomem.experiments.order_test.answers import answers, headline, lead_head
from videomem.experiments.order_test.data import test_orders
from videomem.experiments.order_test.figures import (
    accuracies_figure,
    classes_figure,
    confusions_figure,
    controls_figure,
    perturbations_towards_shuffle,
    pictured_pairs,
    sizes_figure,
    suite_figure,
    value_figure,
)
from videomem.experiments.order_test.information import learner_label
from videomem.experiments.order_test.methods import methods_paragraph, methods_text, used_references
from videomem.experiments.order_test.order_tables import all_tables, table, table_of
from videomem.experiments.order_test.plan import letters
from videomem.experiments.order_test.result import OrderTestResult, to_json
from videomem.experiments.order_test.scores import Scores
from videomem.experiments.tables import points
from videomem.statistics.clip_scores import ClipScores
from videomem.training.data_module import VideoDataModule
from videomem.utils.sharing import shared_text
from videomem.video.datasets.reversed_classes import known_reversed_pairs

MAX_EXAMPLES = 4
NUM_TOP_CLIPS = 6


def render(result: OrderTestResult, examples: Sequence[Example] = (), top_clips: Sequence[ScoredExample] = ()) -> str:
    """The report as HTML. All values are escaped.

    Args:
        top_clips: The clips that need order most.
    """
    methods = methods_text(result)
    return html.page(
        "order_test/report.html.jinja",
        result=result,
        table=partial(table, result),
        headline=headline(result),
        head_sentences=head_sentences(result),
        answers=answers(result),
        learner_label=partial(learner_label, result.heads),
        known_pairs=known_reversed_pairs(result.data.class_names),
        lead=lead_head(result),
        pictured={letters(pair) for pair in pictured_pairs(result)},
        pictures={picture.name: picture for picture in pictures(result)},
        examples=examples,
        top_clips=top_clips,
        strip_image=html.strip_image,
        shorten=shorten,
        table_of=partial(table_of, result),
        methods=methods,
        references=used_references(methods),
    )


def head_sentences(result: OrderTestResult) -> dict[str, str]:
    """A sentence on each head that the plan describes, by its label."""
    described = result.plan.get("heads")
    heads = described if isinstance(described, dict) else {}
    return {one.label: head_sentence(heads[one.name]) for one in result.heads if one.name in heads}


def pictures(result: OrderTestResult) -> Iterator[Picture]:
    """All figures that the result has data for."""
    values = "; ".join(f"{one.label} {points(one.value_of_order.value)}" for one in result.heads)
    yield Picture("value", value_figure(result), f"Value of order in points, with intervals: {values}")
    below = "; numbers in the table below"
    yield Picture("accuracies", accuracies_figure(result), f"Accuracies of each head{below}")
    learners = [one for one in result.heads if not one.is_order_blind]
    if any(perturbations_towards_shuffle(one, kind) for one in learners for kind in ("windows", "blocks")):
        yield Picture("suite", suite_figure(result), f"Reliance under increasing perturbation{below}")
    if result.controls is not None:
        yield Picture("controls", controls_figure(result), f"Accuracy of the controls{below}")
    if any(one.sizes for one in result.heads):
        yield Picture("sizes", sizes_figure(result), f"Value of order by training size{below}")
    for place, one in enumerate(result.heads):
        if one.classes:
            yield Picture(f"classes-{place}", classes_figure(one), f"Value of order of each class with {one.label}")
        confusions = (("ordered", "in order", one.confusion_ordered), ("shuffled", "shuffled", one.confusion_shuffled))
        for name, tested, counts in confusions:
            if counts:
                figure = confusions_figure(counts, result.data.class_names)
                alt = f"Confusion matrix of {one.label}, tested {tested}"
                yield Picture(f"confusion-{name}-{place}", figure, alt)


def write_report(
    result: OrderTestResult, folder: Path, examples: Sequence[Example] = (), top_clips: Sequence[ScoredExample] = ()
) -> Mapping[str, Path]:
    """Write `order.json`, `report.html`, `methods.txt`, tables and figures to a folder; see `html.write_report`."""
    texts = {
        "order.json": to_json(result),
        "report.html": render(result, examples, top_clips),
        "methods.txt": methods_paragraph(result),
    }
    return html.write_report(folder, texts, all_tables(result), pictures(result))


def examples_of(data: VideoDataModule, scores: Scores, result: OrderTestResult) -> list[Example]:
    """One test clip of the first run for each of the most significant chiral pairs.

    Args:
        data: The data module that the videos are decoded with. If a video is missing, its example is left out.
    """
    clips, test = scores.clips, scores.splits[0].test
    examples = []
    for one, other in _pairs(result)[:MAX_EXAMPLES]:
        place = _clearest(scores, result, clips.class_names.index(one), clips.class_names.index(other))
        frames_THWC = None if place is None else shown_frames(data, int(test[place]))
        if place is not None and frames_THWC is not None and len(frames_THWC) == clips.lengths[test[place]]:
            examples.append(Example(one, other, _strips(frames_THWC, place, scores, result)))
    return examples


def top_clips_of(data: VideoDataModule, scores: ClipScores) -> list[ScoredExample]:
    """The clips with the highest order scores, if clips differ in it."""
    if not scores.between > 0:
        return []
    top = []
    for place in np.argsort(-scores.scores, kind="stable")[:NUM_TOP_CLIPS].tolist():
        row = int(scores.clips[place])
        clip, frames_THWC = data.clips[row], shown_frames(data, row)
        strip = None if frames_THWC is None else Strip("ordered", frames_THWC, {})
        numbers = float(scores.scores[place]), float(scores.standard_errors[place])
        top.append(ScoredExample(shared_text(str(clip), [clip.path]), clip.label, *numbers, strip))
    return top


def _pairs(result: OrderTestResult) -> list[tuple[str, str]]:
    """Distinct pairs with p at most 0.05 for any head, sorted by p."""
    all_pairs = [pair for one in result.heads if one.chiral for pair in one.chiral.pairs]
    found = sorted((pair.p, -pair.excess, pair.first, pair.second) for pair in all_pairs if pair.p <= 0.05)
    return list(dict.fromkeys((min(one, other), max(one, other)) for _, _, one, other in found))


def _clearest(scores: Scores, result: OrderTestResult, label: int, partner: int) -> int | None:
    """Index of the test clip of a class that most heads classify as the partner when it is reversed."""
    labels = scores.labels[scores.runs == 0]
    votes = np.where(labels == label, 0, -np.inf)
    for one in result.heads:
        for frame_order, answer in (("ordered", label), ("reverse", partner)):
            votes += scores.predicted(one.name, "ordered", frame_order)[0][: len(labels)] == answer
    return int(votes.argmax()) if label in labels else None


def _strips(frames_THWC: NDArray[np.uint8], place: int, scores: Scores, result: OrderTestResult) -> list[Strip]:
    """A test clip of the first run in order, shuffled and reversed, with the prediction of each head."""
    length, clips = len(frames_THWC), scores.clips
    row, num_permutations = int(scores.splits[0].test[place]), scores.plan.settings.num_permutations
    shown = {"ordered": permutations.IN_ORDER, "shuffled": permutations.SHUFFLE, "reversed": permutations.REVERSE}
    strips = []
    for condition, perturbation in shown.items():
        order_T = test_orders(clips, row, perturbation, num_permutations)[0][:length]
        name = "ordered" if condition == "ordered" else perturbation.label
        answers = {one.label: scores.predicted(one.name, "ordered", name)[0][place] for one in result.heads}
        predictions = {label: clips.class_names[answer] for label, answer in answers.items()}
        strips.append(Strip(condition, frames_THWC[order_T], predictions))
    return strips
