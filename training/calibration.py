"""Calibration: what labelled faces outside the training data say about weights, for their card.

The bounds of "uncertain" are those of split conformal prediction (Angelopoulos and Bates, arXiv 2107.07511):
if a new real video is drawn like the n real ones here, it falls below the k-th smallest of their scores with
a probability of at most k / (n + 1). For other kinds of videos or forgeries nothing is promised. How often
verdicts err is measured by cross-validation: each group of people is judged by bounds from all other groups.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

import pipeline
from pipeline import Item
from training import data
from training.recipe import count_faces
from weights import Bounds, Rule, average_mirrored, read_rule, read_view
from weights.scoring import metrics
from weights.scoring.figures import measure_normal
from weights.scoring.verdicts import FORGED_ERROR, MIN_FACES_PER_PERSON, REAL_ERROR, classify

MAPPED = 50  # real faces whose maps of evidence show what is usual


def join_experts(joined: Any, experts: Sequence[Any], faces: np.ndarray) -> None:
    """Give a Meso4Experts four Meso4, brought to one scale by real faces, uint8 (N, 256, 256, 3).

    Their last layers then give real faces logits of mean 2 and deviation 1.5, so that each doubts about as
    many of them. Raises ValueError unless there are several faces.
    """
    own = [layer for layer in joined.model.layers if layer.weights]  # by depth: four alike in a row
    for number, expert in enumerate(experts):
        logits = metrics.compute_logits(data.score_faces(expert.predict, faces))
        if not logits.std() > 0:
            raise ValueError(f"experts are joined by several real faces, not {len(faces)}")
        learned = [layer.get_weights() for layer in expert.model.layers if layer.weights]
        (kernel, bias), scale = learned[-1], 1.5 / logits.std()
        learned[-1] = [kernel * scale, (bias - logits.mean()) * scale + 2]
        for layer, weights in zip(own[number::4], learned, strict=True):
            layer.set_weights(weights)


def calibrate_card(card: dict, classifier: Any, face_set: data.FaceSet) -> tuple[dict[str, Any], str]:
    """Return (the card with threshold, bounds, figures and strength of maps by these faces, a report)."""
    predict = average_mirrored(classifier.predict)
    items, scores = face_set.items, data.score_faces(predict, face_set.faces)
    threshold = metrics.choose_threshold(items, scores)
    lines = [f"threshold {threshold:g}: a face below it is called a deepfake"]
    card = {**card, "mirrored": True, "threshold": threshold, "calibrated_on": count_faces(items)}
    card.pop("calibration", None)
    try:
        card["calibration"] = found = choose_calibration(face_set, scores, read_view(card))
        lower, upper = found["video"]["lower"], found["video"]["upper"]
        lines.append(f"videos: deepfake below {lower:.3f}, real above {upper:.3f}")
        for kind, counts in found["kinds"].items():
            listed = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
            lines.append(f"{kind} videos, by bounds from other people's: {listed}")
    except ValueError as error:
        lines.append(str(error))
    labelled = metrics.label_scores(items, scores, threshold)
    card["validation"] = metrics.evaluate_by_dataset(labelled, read_rule(card))
    for name, levels in card["validation"].items():
        shown = [f"{figures['auc']:.3f} by {level}" for level, figures in levels.items() if "auc" in figures]
        lines += [f"AUC of {name or 'no data set'}: {', '.join(shown)}"] * bool(shown)
    if card["validation"]["mean"]["image"]["auc"] < 0.5:
        lines.append("worse than chance: these weights do not suit these faces, whatever the threshold")
    chosen = pipeline.pick_evenly(np.flatnonzero(face_set.labels[:, 0]).tolist(), MAPPED)
    card["maps"] = measure_normal(face_set.faces[chosen], predict)
    return card, "\n".join(lines)


def choose_calibration(face_set: data.FaceSet, scores: np.ndarray, view: pipeline.View) -> dict[str, Any]:
    """Return what a card holds as "calibration". Raises ValueError if there are too few videos.

    Videos are those with at least three faces; one face of each video, the middle one, stands for single
    faces. Few of the videos' faces are smaller or more blurred than "min_size" and "min_sharpness" say.
    """
    groups = defaultdict(list)  # indices of the faces of each video
    for index, item in enumerate(face_set.items):
        groups[item.label, item.dataset, item.video].append(index)
    videos = [own for own in groups.values() if len(own) >= MIN_FACES_PER_PERSON]
    face, _ = calibrate_level(face_set.items, scores, [[own[len(own) // 2]] for own in groups.values()])
    video, kinds = calibrate_level(face_set.items, scores, videos)
    sizes, sharpness = [], []
    for path in (face_set.items[index].path for own in videos for index in own):
        crop, zoom = pipeline.read_crop(path)
        # a crop that does not say how wide it was cut is seen whole: it is as wide as the view
        sizes.append(crop.shape[1] / (zoom or view.zoom))
        sharpness.append(pipeline.measure_sharpness(crop))
    return {
        "face": face,
        "video": video,
        "kinds": kinds,
        "min_size": round(float(np.quantile(sizes, 0.005)), 1),  # sizes end sharply: where a detector begins
        "min_sharpness": round(float(np.quantile(sharpness, 0.01)), 2),
    }


def calibrate_level(
    items: Sequence[Item], scores: np.ndarray, videos: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    """Return (bounds and how often they err, {kind of forgery: {verdict: number}}).

    A video is given by the indices of its faces. Verdicts are counted by bounds from other people's videos.
    Raises ValueError if there are too few videos.
    """
    means, firsts = np.array([scores[own].mean() for own in videos]), [items[own[0]] for own in videos]
    real = np.array([item.label == "real" for item in firsts], bool)
    # some sets hold the same people, compressed or cut in another way: a video's name means one person in all
    people = np.array(data.group_videos(item._replace(dataset="any") for item in firsts))
    verdicts = np.full(len(means), "uncertain")
    for group in set(people):
        own = people == group
        bounds = choose_bounds(means[real & ~own], means[~real & ~own])
        verdicts[own] = [classify(mean, "video", Rule(video=bounds)) for mean in means[own]]
    bounds = choose_bounds(means[real], means[~real])
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: {"deepfake": 0, "uncertain": 0, "real": 0})
    for item, verdict in zip(firsts, verdicts.tolist(), strict=True):
        kinds["real" if item.label == "real" else metrics.parse_forgery(item)[0] or "unnamed"][verdict] += 1
    accused, passed = verdicts[real] == "deepfake", verdicts[~real] == "real"
    return {
        **bounds._asdict(),
        "real": len(accused),
        "forged": len(passed),
        "real_called_deepfake": float(accused.mean()),
        "forged_called_real": float(passed.mean()),
        "uncertain": float(np.mean(verdicts == "uncertain")),
        "real_error_interval": compute_interval(accused),
    }, dict(sorted(kinds.items()))


def choose_bounds(real: np.ndarray, forged: np.ndarray) -> Bounds:
    """Return the bounds by the scores of videos. ValueError: these are too few for what is promised."""
    lower_rank = math.floor((len(real) + 1) * REAL_ERROR)
    upper_rank = math.floor((len(forged) + 1) * FORGED_ERROR)
    if not lower_rank or not upper_rank:
        needed = "20 real and 10 forged videos of different people, of 3 faces each"
        raise ValueError(f'no bounds of "uncertain": they need {needed}')
    lower, upper = float(np.sort(real)[lower_rank - 1]), float(np.sort(forged)[-upper_rank])
    if upper < lower:  # they are told apart so well that nothing needs to stay uncertain
        lower = upper = (lower + upper) / 2
    return Bounds(lower, upper, float(metrics.compute_logits(real).std()))


def compute_interval(errors: np.ndarray) -> list[float]:
    """Return between which shares the true share of errors lies, with 90 % confidence: Wilson's interval."""
    number, share, z = len(errors), float(errors.mean()), NormalDist().inv_cdf(0.95)
    middle = share + z**2 / (2 * number)
    reach = z * math.sqrt(share * (1 - share) / number + (z / (2 * number)) ** 2)
    return [max(0.0, round((middle + side * reach) / (1 + z**2 / number), 3)) for side in (-1, 1)]
