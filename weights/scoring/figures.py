"""Pictures of results: all scores, histogram, ROC curve, faces in order, scores over time."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import LABELS, View, pick_evenly, printable
from weights import Rule, Weights
from weights.scoring.evidence import measure_normal  # noqa: F401
from weights.scoring.metrics import collect_labelled, compute_auc, compute_roc
from weights.scoring.outputs import save_figure
from weights.scoring.scores import Result, load_scored_face
from weights.scoring.verdicts import (
    VERDICT_COLORS,
    find_deciding,
    judge_face,
    list_counting,
    list_people,
    lower_bound,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

MOST_FACES, MOST_VIDEOS = 32, 6  # in a figure
MOST_PEOPLE = 8  # in a timeline


def plot_results(results: Iterable[Result], weights: Weights, path: Path) -> None:
    """Draw what was scored: overview, histogram and, where both labels occur, ROC curve; faces; timelines.

    Up to 32 faces are shown, evenly spaced in the order of scores, of videos and photographs the lowest
    face each; up to six timelines, of the videos with the lowest scores. Raises ValueError when nothing was
    scored, OSError when `path` cannot be written.
    """
    from matplotlib.figure import Figure

    rule = weights.rule
    ranked = sorted((r for r in results if r.score is not None), key=attrgetter("score"))
    if not ranked:
        raise ValueError("no score to draw")
    videos = [r for r in ranked if r.kind == "video"][:MOST_VIDEOS]
    # a single video is its timeline; others get one if they are few
    shown = [] if len(ranked) == len(videos) == 1 else pick_evenly(ranked, MOST_FACES)
    columns = min(8, max(4, len(shown)))
    rows = -(-len(shown) // columns)
    heights = [1.75 * rows + 0.3, 3.6] * bool(shown) + [3.2] * len(videos)
    width = 11 if videos else 1.45 * columns
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    parts = list(figure.subfigures(len(heights), squeeze=False, height_ratios=heights).flat)
    if shown:
        few = "" if len(shown) == len(ranked) else f" ({len(shown)} of {len(ranked)})"
        parts[0].suptitle(f"From forged (0) to real (1){few}", fontsize=11)
        draw_faces(list(parts[0].subplots(rows, columns, squeeze=False).flat), shown, weights.view, rule)
        labelled = {r.item.label for r in ranked} >= set(LABELS)
        panels = parts[1].subplots(1, 3 if labelled else 2, squeeze=False)[0]
        draw_overview(panels[0], ranked, rule)
        draw_histogram(panels[1], ranked, choose_line(ranked, rule))
        if labelled:
            draw_roc(panels[2], ranked)
    for part, result in zip(parts[2 * bool(shown) :], videos, strict=True):
        draw_video(part, result, weights)
    save_figure(figure, path)


def choose_line(results: Iterable[Result], rule: Rule) -> float:
    """Return the threshold to draw among scores: that of a video if all are of videos."""
    return rule.threshold_of("video" if all(r.kind == "video" for r in results) else "image")


def draw_overview(panel: "Axes", ranked: Sequence[Result], rule: Rule) -> None:
    """Draw all scores in order, coloured by verdict."""
    from matplotlib.ticker import MaxNLocator

    for verdict in sorted({r.verdict for r in ranked}):
        own = [(place, r.score) for place, r in enumerate(ranked, 1) if r.verdict == verdict]
        label = f"{verdict}: {len(own)}"
        panel.plot(*zip(*own, strict=True), "o", color=VERDICT_COLORS[verdict], markersize=4, label=label)
    panel.axhline(choose_line(ranked, rule), color="black", linestyle=":", linewidth=1)
    panel.set(ylim=(-0.03, 1.03), xlabel="files in order of score", title="All scores")
    panel.set_ylabel("score: 0 = deepfake/f2f, 1 = real")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(fontsize=8)


def draw_faces(cells: Sequence["Axes"], results: Sequence[Result], view: View, rule: Rule) -> None:
    """Draw each Result's face crop, or lowest face, with its score and verdict, one per axes.

    The remaining axes are switched off.
    """
    for cell in cells[len(results) :]:
        cell.axis("off")
    for cell, result in zip(cells, results, strict=False):
        lowest = next(iter(list_counting(result.faces, result.kind, rule)), None)
        draw_face(cell, result, load_scored_face(result, lowest, view))


def draw_face(cell: "Axes", result: Result, face: np.ndarray | None) -> None:
    """Draw one face with its score and verdict; without an array, only these: the file may be gone."""
    color = VERDICT_COLORS[result.verdict]
    cell.set(xticks=[], yticks=[])
    for spine in cell.spines.values():
        spine.set(color=color, linewidth=3)
    cell.set_title(f"{result.score:.3f} {result.verdict}", fontsize=8, color=color)
    if result.item.label:
        cell.set_xlabel(f"labelled {result.item.label}", fontsize=7)
    if face is not None:
        cell.imshow(face)


def draw_histogram(panel: "Axes", results: Iterable[Result], threshold: float) -> None:
    """Draw how many faces have which score, stacked by label or, without labels, by verdict."""
    results = list(results)
    labelled = any(r.item.label for r in results)
    groups: dict[str, list[Any]] = defaultdict(list)
    for r in results:
        groups[r.item.label or ("no label" if labelled else r.verdict)].append(r.score)
    names = sorted(groups)
    colors = [VERDICT_COLORS[{"df": "deepfake", "no label": "no face"}.get(name, name)] for name in names]
    panel.hist([groups[n] for n in names], bins=20, range=(0, 1), stacked=True, color=colors, label=names)
    panel.axvline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
    panel.set(xlabel="score: 0 = deepfake/f2f, 1 = real", ylabel="files", title="Scores")
    panel.legend(title="label" if labelled else "verdict", fontsize=8)


def draw_roc(panel: "Axes", results: Iterable[Result]) -> None:
    """Draw the ROC curves of labelled Results, per image and, where that differs, per video."""
    levels = collect_labelled(results)
    if len(levels["image"][0]) == len(levels["video"][0]):
        del levels["video"]
    for level, (labels, scores) in levels.items():
        false_real, true_real = compute_roc(labels, scores)
        panel.plot(false_real, true_real, label=f"{level}: AUC {compute_auc(labels, scores):.3f}")
    panel.plot((0, 1), (0, 1), color="grey", linestyle=":")
    panel.set(xlabel="forged called real", ylabel="real called real", title="ROC", aspect="equal")
    panel.legend(fontsize=8, loc="lower right")


# --- scores over time -----------------------------------------------------------------------------


def draw_video(figure: "SubFigure", result: Result, weights: Weights) -> None:
    """Draw a video's scores over time, with its lowest and highest face."""
    panel, *cells = figure.subplots(1, 3, width_ratios=(4, 1, 1))
    draw_timeline(panel, result, weights.rule)
    counting = list_counting(result.faces, "video", weights.rule)
    for cell, face, name in zip(cells, (counting[0], counting[-1]), ("lowest", "highest"), strict=True):
        one = result._replace(score=face.score, verdict=judge_face(face, weights.rule))
        draw_face(cell, one, load_scored_face(result, face, weights.view))
        cell.set_xlabel(f"{name}, at {face.time:.2f} s", fontsize=8)


def draw_timeline(panel: "Axes", result: Result, rule: Rule) -> None:
    """Draw a video's scores over time, one line per person, of many the lowest."""
    people = list_people(result.faces, result.kind, rule)
    shown = sorted(people, key=itemgetter(1))[:MOST_PEOPLE]
    for person, mean, _, verdict, _ in sorted(shown):
        own = [face for face in result.faces if face.person == person]
        label = f"person {person}: mean {mean:.3f}, {verdict}"
        panel.plot([face.time for face in own], [face.score for face in own], marker="o", label=label)
    threshold = rule.video_threshold
    deciding = len(find_deciding(result.faces, result.kind, rule))
    lower = lower_bound(rule.video, max(1, deciding)) if rule.video else threshold
    if rule.video:
        panel.axhspan(lower, rule.video.upper, color=VERDICT_COLORS["uncertain"], alpha=0.12)
    panel.axhspan(0, lower, color=VERDICT_COLORS["deepfake"], alpha=0.08)
    panel.axhline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
    panel.set(ylim=(-0.03, 1.03), xlabel="seconds", ylabel="score: 0 = deepfake/f2f, 1 = real")
    title = f"{printable(result.item.path.name)}: {result.score:.3f}, {result.verdict}"
    panel.set_title(title, fontsize=10, parse_math=False)
    few = f"the lowest {len(shown)} of {len(people)} people" if len(shown) < len(people) else None
    panel.legend(title=few, fontsize=8)
