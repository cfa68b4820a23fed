"""How well scores separate real faces from forged ones."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline import Item
from weights.scores import Result, verdict_of


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


def evaluate_scores(scores: Iterable[Result], threshold: float) -> dict[str, dict[str, float]]:
    """Return {"image": figures, "video": figures} of the labelled Scores (see `evaluate`), or {}."""
    levels = collect_labelled(scores)
    return {level: evaluate(labels, values, threshold) for level, (labels, values) in levels.items()}


def collect_labelled(scores: Iterable[Result]) -> dict[str, tuple[list[str], list[float]]]:
    """Return {"image": (labels, scores), "video": (labels, scores)} of the labelled Scores.

    A video's score is the mean of its images' scores. Empty when no image has label and score.
    """
    known = [(s.item, s.score) for s in scores if s.item.label and s.score is not None]
    videos = defaultdict(list)
    for image, score in known:
        videos[image.label, image.video].append(score)
    if not known:
        return {}
    return {
        "image": ([image.label for image, _ in known], [score for _, score in known]),
        "video": ([label for label, _ in videos], [float(np.mean(v)) for v in videos.values()]),
    }


def label_scores(images: Iterable[Item], scores: Iterable[float], threshold: float) -> list[Result]:
    """Return the Results of Items and their scores."""
    return [
        Result(image, float(score), verdict_of(score, threshold), "")
        for image, score in zip(images, scores, strict=True)
    ]


def evaluate_by_dataset(scores: Sequence[Result], threshold: float) -> dict[str, dict[str, dict[str, float]]]:
    """Return {dataset: {"image": figures, "video": figures}} with the datasets "all" and "mean" added.

    For the figures see `pipeline.evaluate`. "mean" has AUC and balanced accuracy, averaged over the
    datasets that have both classes.
    """
    datasets = sorted({s.item.dataset for s in scores})
    found = {
        dataset: evaluate_scores([s for s in scores if s.item.dataset == dataset], threshold)
        for dataset in datasets
    }
    both = [levels for levels in found.values() if "auc" in levels["image"]]
    everything = evaluate_scores(scores, threshold)
    found = found if len(datasets) > 1 else {}
    return found | {
        "all": everything,
        "mean": {
            level: {key: float(np.mean([f[level][key] for f in both or [everything]])) for key in
                    ("balanced_accuracy", "auc")}
            for level in ("image", "video")
        },
    }  # fmt: skip


def choose_threshold(images: Sequence[Item], scores: np.ndarray) -> float:
    """Return the threshold, a multiple of 0.05 from 0.3 to 0.7, of the highest balanced accuracy.

    Of equals the nearest to 0.5. Averaged over the datasets, and over images and videos; coarse, so
    that it holds elsewhere too.
    """

    def measure_at(threshold: float) -> float:
        means = evaluate_by_dataset(label_scores(images, scores, threshold), threshold)["mean"]
        return float(round(np.mean([level["balanced_accuracy"] for level in means.values()]), 6))

    candidates = [round(0.3 + 0.05 * i, 2) for i in range(9)]
    return max(candidates, key=lambda threshold: (measure_at(threshold), -abs(threshold - 0.5)))
