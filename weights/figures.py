"""Pictures of results: ranked faces, histogram, ROC curve, scores over time, maps of evidence."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import IMAGE_SIZE, LABELS, load_faces, printable, write_atomically
from weights import Predict
from weights.metrics import collect_labelled, compute_auc, compute_roc
from weights.scores import Result, load_scored_face
from weights.verdicts import VERDICT_COLORS, average_people, verdict_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_FACES = 32  # in a figure


def plot_results(results: Iterable[Result], threshold: float, path: Path) -> None:
    """Draw face crops in order of score, the histogram and, where both labels occur, the ROC curve.

    If there are more than 32 faces, 32 are shown, evenly spaced in the order. Raises ValueError when
    nothing was scored, OSError when `path` cannot be written.
    """
    from matplotlib.figure import Figure

    ranked = sorted((r for r in results if r.score is not None), key=attrgetter("score"))
    if not ranked:
        raise ValueError("no score to draw")
    shown = [ranked[i] for i in np.linspace(0, len(ranked) - 1, min(len(ranked), MOST_FACES)).astype(int)]
    columns = min(8, max(4, len(shown)))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.45 * columns, 1.75 * rows + 3.6), layout="constrained")
    upper, lower = figure.subfigures(2, squeeze=False, height_ratios=(1.75 * rows, 3.6)).flat
    few = "" if len(shown) == len(ranked) else f" ({len(shown)} of {len(ranked)} faces)"
    upper.suptitle(f"From forged (0) to real (1){few}", fontsize=11)
    draw_faces(list(upper.subplots(rows, columns, squeeze=False).flat), shown)
    labelled = {r.item.label for r in ranked} >= set(LABELS)
    panels = lower.subplots(1, 2 if labelled else 1, squeeze=False)[0]
    draw_histogram(panels[0], ranked, threshold)
    if labelled:
        draw_roc(panels[1], ranked)
    write_atomically(path, lambda part: figure.savefig(part, dpi=120))


def draw_faces(cells: Sequence["Axes"], results: Sequence[Result]) -> None:
    """Draw each face crop with its score and verdict, one per axes; switch the remaining axes off."""
    for cell in cells[len(results) :]:
        cell.axis("off")
    faces = load_faces([r.item for r in results], "bilinear")
    for cell, result, face in zip(cells, results, faces, strict=False):
        draw_face(cell, result, face)


def draw_face(cell: "Axes", result: Result, face: np.ndarray | Exception | None) -> None:
    """Draw one face with its score and verdict; without an array, only these: the file may be gone."""
    color = VERDICT_COLORS[result.verdict]
    cell.set(xticks=[], yticks=[])
    for spine in cell.spines.values():
        spine.set(color=color, linewidth=3)
    cell.set_title(f"{result.score:.3f} {result.verdict}", fontsize=8, color=color)
    if result.item.label:
        cell.set_xlabel(f"labelled {result.item.label}", fontsize=7)
    if isinstance(face, np.ndarray):
        cell.imshow(face)


def draw_histogram(panel: "Axes", results: Iterable[Result], threshold: float) -> None:
    """Draw how many faces have which score, stacked by label or, without labels, by verdict."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for r in results:
        groups[r.item.label or r.verdict].append(r.score)
    labelled = any(r.item.label for r in results)
    names = sorted(groups)
    colors = [VERDICT_COLORS[{"df": "deepfake"}.get(name, name)] for name in names]
    panel.hist([groups[n] for n in names], bins=20, range=(0, 1), stacked=True, color=colors, label=names)
    panel.axvline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
    panel.set(xlabel="score: 0 = deepfake/f2f, 1 = real", ylabel="images", title="Scores")
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

MOST_VIDEOS = 6  # in a figure


def plot_videos(results: Iterable[Result], threshold: float, path: Path) -> None:
    """Draw the scores of videos over time, with the lowest and the highest face of each.

    If there are more than six videos, the six with the lowest scores are shown. Raises as `plot_results`.
    """
    from matplotlib.figure import Figure

    ranked = sorted((r for r in results if r.faces), key=attrgetter("score"))
    if not ranked:
        raise ValueError("no score to draw")
    shown = ranked[:MOST_VIDEOS]
    figure = Figure(figsize=(11, 3.2 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), 3, squeeze=False, width_ratios=(4, 1, 1))
    for (panel, *cells), result in zip(rows, shown, strict=True):
        draw_timeline(panel, result, threshold)
        for cell, choose, name in zip(cells, (min, max), ("lowest", "highest"), strict=True):
            face = choose(result.faces, key=attrgetter("score"))
            one = result._replace(score=face.score, verdict=verdict_of(face.score, threshold))
            draw_face(cell, one, load_scored_face(result, face, "bilinear"))
            cell.set_xlabel(f"{name}, at {face.time:.2f} s", fontsize=8)
    write_atomically(path, lambda part: figure.savefig(part, dpi=100))


def draw_timeline(panel: "Axes", result: Result, threshold: float) -> None:
    """Draw a video's scores over time, one line per person."""
    for person, (mean, _) in average_people(result.faces).items():
        own = [face for face in result.faces if face.person == person]
        label = f"person {person}: mean {mean:.3f}, {verdict_of(mean, threshold)}"
        panel.plot([face.time for face in own], [face.score for face in own], marker="o", label=label)
    panel.axhspan(0, threshold, color=VERDICT_COLORS["deepfake"], alpha=0.08)
    panel.axhline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
    panel.set(ylim=(-0.03, 1.03), xlabel="seconds", ylabel="score: 0 = deepfake/f2f, 1 = real")
    title = f"{printable(result.item.path.name)}: {result.score:.3f}, {result.verdict}"
    panel.set_title(title, fontsize=10, parse_math=False)
    panel.legend(fontsize=8)


# --- where the evidence lies ----------------------------------------------------------------------

PATCH, STRIDE = 32, 16  # pixels of a 256x256 face


def map_evidence(face: np.ndarray, predict: Predict) -> np.ndarray:
    """Return how much each pixel of a face speaks for "forged": float32 (256, 256), in logits.

    Occlusion: each patch in turn is replaced by shuffled pixels of the face. A pixel's value is the rise
    of the logit, averaged over the patches that cover it: positive where the face speaks for forged,
    negative where it speaks for real. The logit is used since the score itself saturates. `face` is
    uint8 (256, 256, 3); `predict` is what `weights.load_predictor` returns.
    """
    shuffled = np.random.default_rng(0).permutation(face.reshape(-1, 3)).reshape(face.shape)
    starts = range(0, IMAGE_SIZE - PATCH + 1, STRIDE)
    patches = [np.s_[y : y + PATCH, x : x + PATCH] for y in starts for x in starts]
    occluded = np.repeat(face[None], len(patches), axis=0)
    for image, patch in zip(occluded, patches, strict=True):
        image[patch] = shuffled[patch]
    rises = compute_logits(predict(occluded)) - compute_logits(predict(face[None]))
    total, covers = np.zeros((2, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for rise, patch in zip(rises, patches, strict=True):
        total[patch] += rise
        covers[patch] += 1
    return total / covers


def compute_logits(scores: np.ndarray) -> np.ndarray:
    """Return the logits of float32 scores, float64 (N,); scores of exactly 0 or 1 are moved inwards."""
    scores = np.clip(scores.astype(np.float64), 1e-30, 1 - 2.0**-25)
    return np.log(scores) - np.log1p(-scores)


def plot_evidence(face: np.ndarray, evidence: np.ndarray, title: str, path: Path) -> None:
    """Draw a face beside itself overlaid with its map of evidence (see `map_evidence`)."""
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
