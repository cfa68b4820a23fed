"""Calibration: what labelled faces that were not trained on say of weights, for their card.

The bounds of "uncertain" are those of split conformal prediction (Angelopoulos and Bates, arXiv 2107.07511):
if a new real video is drawn like the n real ones here, it falls below the k-th smallest of their scores with
a probability of at most k / (n + 1). For other kinds of videos or forgeries nothing is promised.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

import pipeline
from training.data import FaceSet
from training.recipe import count_faces
from weights import read_rule
from weights.scoring.figures import measure_normal
from weights.scoring.metrics import choose_threshold, compute_logits, evaluate_by_dataset, label_scores
from weights.scoring.verdicts import FORGED_ERROR, MIN_FACES_PER_PERSON, REAL_ERROR

MAPPED = 100  # real faces whose maps of evidence show what is normal


def calibrate_card(
    card: dict[str, Any], classifier: Any, face_set: FaceSet, view: pipeline.View
) -> tuple[dict[str, Any], str]:
    """Return (the card with threshold, bounds, figures and normal maps by the labelled faces, a report)."""
    items, scores = face_set.items, classifier.predict(face_set.faces)[:, 0]
    threshold = choose_threshold(items, scores)
    lines = [f"threshold {threshold:g}: a face below it is called a deepfake"]
    card = {**card, "threshold": threshold, "calibrated_on": count_faces(items)}
    card.pop("calibration", None)
    if bounds := choose_calibration(face_set, scores, view):
        card["calibration"], video = bounds, bounds["video"]
        lines.append(f"videos: deepfake below {video['lower']:.3f}, real above {video['upper']:.3f}")
    else:
        lines.append('no bounds of "uncertain": they need 19 real and 9 forged videos, of 3 faces each')
    card["validation"] = evaluate_by_dataset(label_scores(items, scores, threshold), read_rule(card))
    for name, levels in card["validation"].items():
        shown = [f"{figures['auc']:.3f} by {level}" for level, figures in levels.items() if "auc" in figures]
        lines += [f"AUC of {name or 'no data set'}: {', '.join(shown)}"] * bool(shown)
    if card["validation"]["mean"]["image"]["auc"] < 0.5:
        lines.append("worse than chance: these weights do not suit these faces, whatever the threshold")
    chosen = pipeline.pick_evenly(np.flatnonzero(face_set.labels[:, 0]).tolist(), MAPPED)
    card["maps"] = measure_normal(face_set.faces[chosen], lambda faces: classifier.predict(faces)[:, 0])
    return card, "\n".join(lines)


def choose_calibration(face_set: FaceSet, scores: np.ndarray, view: pipeline.View) -> dict[str, Any] | None:
    """Return what a card holds as "calibration", or None if there are too few videos.

    Videos are those with at least three faces; one face of each video, the middle one, stands for single
    faces. Few of the videos' faces are smaller or more blurred than "min_size" and "min_sharpness" say.
    """
    groups = defaultdict(list)  # indices of the faces of each video
    for index, item in enumerate(face_set.items):
        groups[item.label, item.dataset, item.video].append(index)
    videos = {key: own for key, own in groups.items() if len(own) >= MIN_FACES_PER_PERSON}
    means = {key: float(scores[own].mean()) for key, own in videos.items()}
    singles = {key: float(scores[own[len(own) // 2]]) for key, own in groups.items()}
    face, video = (
        choose_bounds(*([found[key] for key in found if key[0] == label] for label in ("real", "df")))
        for found in (singles, means)
    )
    if not face or not video:
        return None
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: {"deepfake": 0, "uncertain": 0, "real": 0})
    for key, mean in sorted(means.items()):
        item = face_set.items[videos[key][0]]
        kind = "real" if item.label == "real" else pipeline.parse_forgery(item)[0] or "forged"
        verdict = "deepfake" if mean < video["lower"] else "real" if mean > video["upper"] else "uncertain"
        kinds[f"{item.dataset} {kind}".strip()][verdict] += 1
    sizes, sharpness = [], []
    for path in (face_set.items[index].path for own in videos.values() for index in own):
        crop, zoom = pipeline.read_crop(path)
        # a crop that does not say how wide it was cut is seen whole: it is as wide as the view
        sizes.append(crop.shape[1] / (zoom or view.zoom))
        sharpness.append(pipeline.measure_sharpness(crop))
    return {
        "face": face,
        "video": video,
        "min_size": round(float(np.quantile(sizes, 0.005)), 1),  # sizes end sharply: where a detector begins
        "min_sharpness": round(float(np.quantile(sharpness, 0.01)), 2),
        "kinds": kinds,
    }


def choose_bounds(real: Sequence[float], forged: Sequence[float]) -> dict[str, Any] | None:
    """Return the bounds, how sure they are, and how often they err on these scores; None if these are few."""
    lower_rank = math.floor((len(real) + 1) * REAL_ERROR)
    upper_rank = math.floor((len(forged) + 1) * FORGED_ERROR)
    if not lower_rank or not upper_rank:
        return None
    lower, upper = sorted(real)[lower_rank - 1], sorted(forged)[-upper_rank]
    if upper < lower:  # they are told apart so well that nothing needs to stay uncertain
        lower = upper = (lower + upper) / 2
    return {
        "lower": lower,
        "upper": upper,
        "spread": float(compute_logits(np.array(real)).std()),
        "real": len(real),
        "forged": len(forged),
        "real_called_deepfake": float(np.mean([score < lower for score in real])),
        "forged_called_real": float(np.mean([score > upper for score in forged])),
        "uncertain": float(np.mean([lower <= score <= upper for score in (*real, *forged)])),
        # 90 % of all sets of as many videos give bounds whose true shares of errors lie in these
        "real_error_interval": compute_interval(lower_rank, len(real)),
        "forged_error_interval": compute_interval(upper_rank, len(forged)),
    }


def compute_interval(rank: int, count: int) -> list[float]:
    """Return where the true share below the rank-th smallest of `count` draws lies in 90 % of cases.

    It is at most s with the chance that `rank` or more of the draws fall below s: a binomial sum.
    """
    shares = np.linspace(0, 1, 10_001)
    fewer = sum(math.comb(count, k) * shares**k * (1 - shares) ** (count - k) for k in range(rank))
    return [round(float(share), 3) for share in np.interp((0.05, 0.95), 1 - fewer, shares)]
