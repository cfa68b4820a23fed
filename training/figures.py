"""Figures of a training: its curves, and what the trained network gets right and wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import pipeline
from pipeline import View, printable
from weights import Rule
from weights.scoring.figures import draw_faces, draw_histogram, draw_roc
from weights.scoring.metrics import collect_labelled
from weights.scoring.scores import Result

WORST = 16  # most wrongly classified faces to show


def draw_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the epochs' figures (dicts as in history.csv): loss, accuracy, AUC, learning rate."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    epochs = [row["epoch"] for row in history]
    panels = figure.subplots(2, 2, sharex=True).flat
    for panel, title, names in zip(
        panels,
        ("Loss", "Accuracy", "AUC", "Learning rate"),
        (
            {"loss": "training", "validation_loss": "validation"},
            {
                "accuracy": "training",
                "explained": "training: share of variance explained",
                "validation_accuracy": "validation",
                "validation_balanced_accuracy": "validation, balanced",
            },
            {"validation_auc": "validation, mean over datasets"},
            {"learning_rate": "at the epoch's start"},
        ),
        strict=True,
    ):
        for name in filter(history[0].__contains__, names):
            panel.plot(epochs, [row[name] for row in history], marker=".", label=names[name])
        panel.set(title=title, xlabel="epoch")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
        if title == "Learning rate":
            panel.set_yscale("log")
    pipeline.write_atomically(path, lambda part: figure.savefig(part, dpi=110))


def draw_evaluation(scores: Sequence[Result], rule: Rule, view: View, path: Path) -> None:
    """Draw labelled Results: ROC, histogram, confusion per image and per video, worst faces."""
    figure = Figure(figsize=(12, 9.5), layout="constrained")
    upper, lower = figure.subfigures(2, squeeze=False, height_ratios=(4, 5)).flat
    roc, histogram, by_image, by_video = upper.subplots(1, 4)
    draw_roc(roc, scores)
    draw_histogram(histogram, scores, rule.threshold)
    levels = collect_labelled(scores)
    for panel, (level, (labels, values)) in zip((by_image, by_video), levels.items(), strict=True):
        several = len(labels) < len(scores)  # videos of a single image have the threshold of a face
        _draw_confusion(panel, level, labels, values, rule.threshold_of(level if several else "image"))
    worst = pick_worst(scores, rule.threshold)
    lower.suptitle("Most wrongly classified" if worst else "None wrongly classified", fontsize=11)
    cells = list(lower.subplots(2, WORST // 2).flat)
    draw_faces(cells, worst, view, rule)
    for cell, result in zip(cells, worst, strict=False):  # where to find it
        shown = printable("/".join(result.item.path.parts[-2:])).replace("$", r"\$")  # no formula
        cell.set_xlabel(f"{result.item.label}: {shown}", fontsize=6, wrap=True)
    pipeline.write_atomically(path, lambda part: figure.savefig(part, dpi=110))


def pick_worst(scores: Sequence[Result], threshold: float) -> list[Result]:
    """Return the labelled Results furthest on the wrong side of the threshold, one of each video."""
    sides = [1 if s.item.label == "real" else -1 for s in scores]
    wrongness = (threshold - np.array([s.score for s in scores])) * sides
    of_video: dict[str, Result] = {}  # its frames are alike
    for i in np.argsort(-wrongness):
        if wrongness[i] > 0:
            of_video.setdefault(scores[i].item.video, scores[i])
    return list(of_video.values())[:WORST]


def _draw_confusion(
    panel: Axes, level: str, labels: Sequence[str], values: Sequence[float], threshold: float
) -> None:
    called_real = np.asarray(values) >= threshold
    is_real = np.array([label == "real" for label in labels])
    counts = np.array(
        [[(called_real[is_real == a] == b).sum() for b in (False, True)] for a in (False, True)]
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            share = shares[row, column]
            color = "white" if share > 0.5 else "black"
            panel.text(
                column, row, f"{counts[row, column]}\n{share:.1%}", ha="center", va="center", color=color
            )
    panel.set(title=f"Per {level}", xlabel="classified as", ylabel="label")
    panel.set_xticks((0, 1), ("deepfake", "real"))
    panel.set_yticks((0, 1), pipeline.LABELS, rotation=90, va="center")


def open_board(output: Path) -> Any:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise ValueError("--tensorboard needs: pip install tensorboard") from None
    from tensorflow import summary

    return summary.create_file_writer(str(output / "logs"))


def write_board(board: Any, row: dict[str, Any]) -> None:
    from tensorflow import summary

    with board.as_default():
        for name, value in row.items():
            if name not in ("epoch", "step"):
                summary.scalar(name, value, step=row["epoch"])
    board.flush()
