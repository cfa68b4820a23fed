"""How well scores separate real faces from forged ones."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from weights.scores import Score


def evaluate(
    labels: Sequence[str], scores: Sequence[float] | np.ndarray, threshold: float
) -> dict[str, float]:
    """Return how well scores tell "real" from "df": a dict of fractions in [0, 1].

    `labels` are "df" or "real", `scores` P(real). Accuracy for each class and overall, balanced
    accuracy, and, where both classes occur, the area under the ROC curve and the equal error rate.
    """
    real = np.array([label == "real" for label in labels])
    scores = np.asarray(scores)
    right = (scores >= threshold) == real
    found = {"count": len(scores), "accuracy": float(right.mean())}
    for label, chosen in (("df", ~real), ("real", real)):
        if chosen.any():
            found[f"accuracy_{label}"] = float(right[chosen].mean())
    if real.any() and not real.all():
        from sklearn import metrics  # a second

        found["balanced_accuracy"] = (found["accuracy_df"] + found["accuracy_real"]) / 2
        found["auc"] = float(metrics.roc_auc_score(real, scores))
        false_real, true_real, _ = metrics.roc_curve(real, scores)
        # where as many real faces are taken for forged as forged ones for real
        found["eer"] = float(np.interp(0, false_real + true_real - 1, false_real))
    return found


def evaluate_scores(scores: Iterable[Score], threshold: float) -> dict[str, dict[str, float]]:
    """Return {"image": figures, "video": figures} of the labelled Scores (see `evaluate`), or {}."""
    levels = collect_labelled(scores)
    return {level: evaluate(labels, values, threshold) for level, (labels, values) in levels.items()}


def collect_labelled(scores: Iterable[Score]) -> dict[str, tuple[list[str], list[float]]]:
    """Return {"image": (labels, scores), "video": (labels, scores)} of the labelled Scores.

    A video's score is the mean of its images' scores. Empty when no image has label and score.
    """
    known = [(s.image, s.score) for s in scores if s.image.label and s.score is not None]
    videos = defaultdict(list)
    for image, score in known:
        videos[image.label, image.video].append(score)
    if not known:
        return {}
    return {
        "image": ([image.label for image, _ in known], [score for _, score in known]),
        "video": ([label for label, _ in videos], [float(np.mean(v)) for v in videos.values()]),
    }
