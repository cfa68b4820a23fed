"""Calibration: the thresholds and bounds of a card, chosen on labelled faces held back from training.

The bounds are those of split conformal prediction (Angelopoulos and Bates, "A Gentle Introduction to
Conformal Prediction", arXiv 2107.07511): if a new real video is drawn like the n real ones here, it falls
below the k-th smallest of their scores with a probability of at most k / (n + 1), whatever the scores'
distribution. For other kinds of videos or forgeries nothing is promised.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline import Item, View, measure_sharpness, read_image, read_zoom, split_video
from weights import LEVELS
from weights.scoring.evidence import compute_logits
from weights.scoring.metrics import choose_threshold, compute_auc
from weights.scoring.verdicts import FORGED_ERROR, MIN_FACES_PER_PERSON, REAL_ERROR

Groups = dict[tuple[str, str], list[int]]  # (label, video) -> indices of its faces

AGGREGATIONS: dict[str, Callable[[np.ndarray, float], float]] = {
    "mean": lambda scores, _: float(np.mean(scores)),
    "trimmed mean": lambda scores, _: float(
        np.mean(np.sort(scores)[len(scores) // 5 : -(len(scores) // 5) or None])
    ),
    "share above the threshold": lambda scores, threshold: float(np.mean(scores >= threshold)),
    "mean of the third furthest from the threshold": lambda scores, threshold: float(
        np.mean(scores[np.argsort(-abs(scores - threshold))[: -(-len(scores) // 3)]])
    ),
}


def calibrate(
    images: Sequence[Item], scores: np.ndarray, threshold: float, view: View
) -> dict[str, Any] | None:
    """Return what a card holds as "calibration", or None if there are too few videos.

    `scores`, float (N,), are those of the images, seen in `view`; `threshold` is the one for a face. Videos
    are those with at least three faces; of every video one face, the middle one, stands for single faces. At
    least 19 real and 9 forged videos are needed for bounds that mean something.
    """
    groups: Groups = defaultdict(list)
    for index, image in enumerate(images):
        groups[image.label, image.video].append(index)
    videos = {key: own for key, own in groups.items() if len(own) >= MIN_FACES_PER_PERSON}
    means = {key: float(scores[own].mean()) for key, own in videos.items()}
    singles = {key: float(scores[own[len(own) // 2]]) for key, own in groups.items()}
    found: dict[str, Any] = {}
    for level, values in zip(LEVELS, (singles, means), strict=True):
        bounds = choose_bounds(
            *([v for (label, _), v in values.items() if label == x] for x in ("real", "df"))
        )
        if bounds is None:
            return None
        found[level] = bounds
    chosen = [index for own in videos.values() for index in own]
    lower, upper = found["video"]["lower"], found["video"]["upper"]
    found["video"]["threshold"] = choose_threshold(  # between the bounds: else it would contradict a verdict
        [images[i] for i in chosen], scores[chosen], ("video",), lower, upper
    )
    found["video"]["kinds"] = count_by_kind(images, videos, means, found["video"])
    found["aggregation_auc"] = measure_aggregations(videos, scores, threshold)
    found["min_size"], found["min_sharpness"] = measure_faces([images[i] for i in chosen], view)
    return found


def choose_bounds(real: Sequence[float], forged: Sequence[float]) -> dict[str, Any] | None:
    """Return the bounds, how sure they are, and how often they err on these scores; None if these are few."""
    lower_rank = math.floor((len(real) + 1) * REAL_ERROR)
    upper_rank = math.floor((len(forged) + 1) * FORGED_ERROR)
    if not lower_rank or not upper_rank:
        return None
    lower, upper = sorted(real)[lower_rank - 1], sorted(forged)[-upper_rank]
    if upper < lower:  # they are told apart so well that nothing needs to stay uncertain
        lower = upper = (lower + upper) / 2
    everything = np.array([*real, *forged])
    return {
        "lower": lower,
        "upper": upper,
        "spread": float(compute_logits(np.array(real)).std()),
        "real": len(real),
        "forged": len(forged),
        "real_called_deepfake": float(np.mean(np.array(real) < lower)),
        "forged_called_real": float(np.mean(np.array(forged) > upper)),
        "uncertain": float(np.mean((everything >= lower) & (everything <= upper))),
        # 90 % of all sets of as many videos give bounds whose true shares of errors lie in these
        "real_error_interval": compute_interval(lower_rank, len(real)),
        "forged_error_interval": compute_interval(upper_rank, len(forged)),
    }


@functools.cache
def compute_interval(rank: int, count: int) -> tuple[float, ...]:
    """Return where the true share below the rank-th smallest of `count` draws lies in 90 % of cases."""
    drawn = np.random.default_rng(0).beta(rank, count + 1 - rank, 200_000)  # its distribution
    return tuple(round(float(share), 3) for share in np.quantile(drawn, (0.05, 0.95)))


def count_by_kind(
    images: Sequence[Item], videos: Groups, means: dict[tuple[str, str], float], bounds: dict[str, Any]
) -> dict[str, dict[str, int]]:
    """Return {data set and kind: how many videos got which verdict}."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"deepfake": 0, "uncertain": 0, "real": 0})
    for key, own in videos.items():
        image = images[own[0]]
        kind = "real" if image.label == "real" else split_video(image)[0] or "forged"
        low, high = means[key] < bounds["lower"], means[key] > bounds["upper"]
        counts[f"{image.dataset} {kind}".strip()]["deepfake" if low else "real" if high else "uncertain"] += 1
    return dict(sorted(counts.items()))


def measure_aggregations(videos: Groups, scores: np.ndarray, threshold: float) -> dict[str, float]:
    """Return the AUC over videos of ways to make one score out of a video's."""
    labels = [label for label, _ in videos]
    return {
        name: round(compute_auc(labels, [aggregate(scores[own], threshold) for own in videos.values()]), 4)
        for name, aggregate in AGGREGATIONS.items()
    }


def measure_faces(images: Sequence[Item], view: View) -> tuple[float, float]:
    """Return (Pose.size in pixels, sharpness): few of the faces are smaller or more blurred.

    A crop that does not say how wide it was cut is seen whole: it is as wide as the view. Half a percent of
    the faces are smaller, since sizes end sharply where the detector begins; one percent are more blurred.
    """
    crops = [(read_image(image.path), read_zoom(image.path)) for image in images]
    sizes = [crop.shape[1] / (zoom or view.zoom) for crop, zoom in crops]
    sharpness = [measure_sharpness(crop) for crop, _ in crops]
    return round(float(np.quantile(sizes, 0.005)), 1), round(float(np.quantile(sharpness, 0.01)), 2)
