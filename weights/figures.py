"""Pictures of scores: ranked faces, histogram, ROC, timelines, maps of evidence."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import IMAGE_SIZE, LABELS, load_faces, printable, write_atomically
from weights import Predict
from weights.metrics import collect_labelled
from weights.scores import Result, average_people, load_scored_face, verdict_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


VERDICT_COLORS = {"real": "tab:blue", "deepfake": "tab:red", "no face": "tab:gray"}
MOST_FACES = 32  # in a figure


def plot_scores(scores: Iterable[Result], threshold: float, path: Path) -> None:
    """Draw the Scores: faces in order of score, histogram and, where labels exist, the ROC curve.

    Of more than 32 faces, as many are shown, evenly spaced in the order. Raises ValueError when
    there is no score to draw, OSError when `path` cannot be written.
    """
    from matplotlib.figure import Figure

    ranked = sorted((s for s in scores if s.score is not None), key=attrgetter("score"))
    if not ranked:
        raise ValueError("no score to draw")
    shown = [ranked[i] for i in np.linspace(0, len(ranked) - 1, min(len(ranked), MOST_FACES)).astype(int)]
    columns = min(8, max(4, len(shown)))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.45 * columns, 1.75 * rows + 3.6), layout="constrained")
    upper, lower = figure.subfigures(2, squeeze=False, height_ratios=(1.75 * rows, 3.6)).flat
    few = "" if len(shown) == len(ranked) else f" ({len(shown)} of {len(ranked)} faces)"
    upper.suptitle(f"From forged (0) to real (1){few}", fontsize=11)
    cells = list(upper.subplots(rows, columns, squeeze=False).flat)
    draw_faces(cells, shown)
    labelled = {s.item.label for s in ranked} >= set(LABELS)
    panels = lower.subplots(1, 2 if labelled else 1, squeeze=False)[0]
    draw_histogram(panels[0], ranked, threshold)
    if labelled:
        draw_roc(panels[1], ranked)
    write_atomically(path, lambda part: figure.savefig(part, dpi=120))


def draw_faces(cells: Sequence["Axes"], scores: Sequence[Result]) -> None:
    """Draw the face, score and verdict of each Score into an axes of its own; leave the rest empty."""
    for cell in cells[len(scores) :]:
        cell.axis("off")
    faces = load_faces([s.item for s in scores], "bilinear")
    for cell, score, face in zip(cells, scores, faces, strict=False):
        draw_face(cell, score, face)


def draw_face(cell: "Axes", score: Result, face: np.ndarray | Exception | None) -> None:
    color = VERDICT_COLORS[score.verdict]
    cell.set(xticks=[], yticks=[])
    for spine in cell.spines.values():
        spine.set(color=color, linewidth=3)
    cell.set_title(f"{score.score:.3f} {score.verdict}", fontsize=8, color=color)
    if score.item.label:
        cell.set_xlabel(f"labelled {score.item.label}", fontsize=7)
    if isinstance(face, np.ndarray):  # it may have vanished since it was scored
        cell.imshow(face)


def draw_histogram(panel: "Axes", scores: Iterable[Result], threshold: float) -> None:
    groups: dict[str, list[Any]] = defaultdict(list)
    for s in scores:
        groups[s.item.label or s.verdict].append(s.score)
    labelled = any(s.item.label for s in scores)
    names = sorted(groups)
    colors = [VERDICT_COLORS[{"df": "deepfake"}.get(name, name)] for name in names]
    panel.hist([groups[n] for n in names], bins=20, range=(0, 1), stacked=True, color=colors, label=names)
    panel.axvline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
    panel.set(xlabel="score: 0 = deepfake/f2f, 1 = real", ylabel="images", title="Scores")
    panel.legend(title="label" if labelled else "verdict", fontsize=8)


def draw_roc(panel: "Axes", scores: Iterable[Result]) -> None:
    """Draw the ROC curves of the labelled Scores, per image and, where that differs, per video."""
    from sklearn import metrics

    levels = collect_labelled(scores)
    if len(levels["image"][0]) == len(levels["video"][0]):
        del levels["video"]
    for level, (labels, values) in levels.items():
        real = [label == "real" for label in labels]
        false_real, true_real, _ = metrics.roc_curve(real, values)
        panel.plot(false_real, true_real, label=f"{level}: AUC {metrics.auc(false_real, true_real):.3f}")
    panel.plot((0, 1), (0, 1), color="grey", linestyle=":")
    panel.set(xlabel="forged taken for real", ylabel="real taken for real", title="ROC", aspect="equal")
    panel.legend(fontsize=8, loc="lower right")


MOST_VIDEOS = 6  # in a figure


def plot_videos(scores: Iterable[Result], threshold: float, path: Path) -> None:
    """Draw the scores of videos over time, with the lowest and the highest face of each.

    Of more than six videos those of the lowest scores are shown. Raises as `plot_scores`.
    """
    from matplotlib.figure import Figure

    ranked = sorted((s for s in scores if s.faces), key=attrgetter("score"))
    if not ranked:
        raise ValueError("no score to draw")
    shown = ranked[:MOST_VIDEOS]
    figure = Figure(figsize=(11, 3.2 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), 3, squeeze=False, width_ratios=(4, 1, 1))
    for (panel, *cells), score in zip(rows, shown, strict=True):
        draw_timeline(panel, score, threshold)
        for cell, choose, name in zip(cells, (min, max), ("lowest", "highest"), strict=True):
            face = choose(score.faces, key=lambda face: face.score)
            verdict = verdict_of(face.score, threshold)
            draw_face(
                cell,
                score._replace(score=face.score, verdict=verdict),
                load_scored_face(score, face, "bilinear"),
            )
            cell.set_xlabel(f"{name}, at {face.time:.2f} s", fontsize=8)
    write_atomically(path, lambda part: figure.savefig(part, dpi=100))


def draw_timeline(panel: "Axes", score: Result, threshold: float) -> None:
    """Draw a video's scores over time, a line for each person."""
    for person, (mean, _) in average_people(score.faces).items():
        own = [face for face in score.faces if face.person == person]
        label = f"person {person}: mean {mean:.3f}, {verdict_of(mean, threshold)}"
        panel.plot([face.time for face in own], [face.score for face in own], marker="o", label=label)
    panel.axhspan(0, threshold, color=VERDICT_COLORS["deepfake"], alpha=0.08)
    panel.axhline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
    panel.set(ylim=(-0.03, 1.03), xlabel="seconds", ylabel="score: 0 = deepfake/f2f, 1 = real")
    panel.set_title(
        f"{printable(score.item.path.name)}: {score.score:.3f}, {score.verdict}",
        fontsize=10,
        parse_math=False,
    )
    panel.legend(fontsize=8)


PATCH, STRIDE = 32, 16  # pixels of a 256x256 face


def map_evidence(face: np.ndarray, compute_logits: Predict) -> np.ndarray:
    """Return how much each pixel of a face speaks for "forged": float32 (256, 256), in logits.

    Occlusion: patches are replaced by the face's own pixels in disorder, and each pixel gets by how
    much the logit rises, averaged over the patches that cover it. Where it is positive, what is there
    speaks for forged; where negative, for real. The logit, since the score itself saturates.
    `face` is uint8 (256, 256, 3), `compute_logits` as `classifiers.Classifier.compute_logits`.
    """
    disorder = np.random.default_rng(0).permutation(face.reshape(-1, 3)).reshape(face.shape)
    starts = range(0, IMAGE_SIZE - PATCH + 1, STRIDE)
    patches = [np.s_[y : y + PATCH, x : x + PATCH] for y in starts for x in starts]
    occluded = np.repeat(face[None], len(patches), axis=0)
    for image, patch in zip(occluded, patches, strict=True):
        image[patch] = disorder[patch]
    rises = compute_logits(occluded) - compute_logits(face[None])
    total, covers = np.zeros((2, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for rise, patch in zip(rises, patches, strict=True):
        total[patch] += rise
        covers[patch] += 1
    return total / covers


def plot_evidence(face: np.ndarray, evidence: np.ndarray, title: str, path: Path) -> None:
    """Draw a face beside itself with its map of evidence (see `map_evidence`) laid over."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    plain, overlaid = figure.subplots(1, 2)
    limit = max(float(np.abs(evidence).max()), 1e-3)
    plain.imshow(face)
    overlaid.imshow(face)
    colors = overlaid.imshow(evidence, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.55)
    for panel in (plain, overlaid):
        panel.axis("off")
    figure.colorbar(colors, ax=overlaid, label="logit: speaks for forged (red), for real (blue)")
    figure.suptitle(title, fontsize=10, parse_math=False)
    write_atomically(path, lambda part: figure.savefig(part, dpi=100))
