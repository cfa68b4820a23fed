"""How well scores separate real faces from forged ones: AUC, accuracy, per data set."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pipeline import Item, T
from weights import Rule
from weights.scoring.scores import Result
from weights.scoring.verdicts import MIN_FACES_PER_PERSON, classify

Scores = Sequence[float] | np.ndarray  # (N,), 1 = real, 0 = forged
Figures = dict[str, float]  # see `evaluate`
FORGERY_NAME = re.compile(r"(?P<kind>[^_]+)_(?P<origin>[^_]+)(_.*)?", re.DOTALL)


def group_by(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Return {key(item): its items}, in order of appearance."""
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def parse_forgery(item: Item) -> tuple[str, str]:
    """Return (kind, origin) of a forgery in a data set, as its name says: face2face_055_147; or ("", "")."""
    named = FORGERY_NAME.fullmatch(item.video) if item.dataset and item.label == "df" else None
    return (named["kind"], named["origin"]) if named else ("", "")


def compute_auc(labels: Sequence[str], scores: Scores) -> float:
    """Return the area under the ROC curve: the chance that a real face scores above a forged one."""
    real, scores = np.array(labels) == "real", np.asarray(scores, np.float64)
    forged = np.sort(scores[~real])
    below = [np.searchsorted(forged, scores[real], side) for side in ("left", "right")]  # ties count half
    return float(np.mean(below) / len(forged))


def compute_logits(scores: np.ndarray) -> np.ndarray:
    """Return the logits of scores, float64 (N,); scores of exactly 0 or 1 are moved inwards."""
    scores = np.clip(scores.astype(np.float64), 1e-30, 1 - 2.0**-25)
    return np.log(scores) - np.log1p(-scores)


def evaluate(labels: Sequence[str], scores: Scores, verdicts: Sequence[str]) -> Figures:
    """Return a dict of "count" and of fractions in [0, 1]: how often verdicts on labelled scores are right.

    "accuracy", "accuracy_df", "accuracy_real" and, where there are any, "uncertain"; where both labels occur,
    also "balanced_accuracy" and "auc". An uncertain verdict is not right.
    """
    real, given = np.array(labels) == "real", np.array(verdicts)
    right = given == np.where(real, "real", "deepfake")
    found = {"count": len(right), "accuracy": float(right.mean())}
    for label, chosen in (("df", ~real), ("real", real)):
        if chosen.any():
            found[f"accuracy_{label}"] = float(right[chosen].mean())
    if real.any() and not real.all():
        found["balanced_accuracy"] = (found["accuracy_df"] + found["accuracy_real"]) / 2
        found["auc"] = compute_auc(labels, scores)
    if "uncertain" in verdicts:
        found["uncertain"] = float(np.mean(given == "uncertain"))
    return found


def evaluate_results(results: Iterable[Result], rule: Rule) -> dict[str, Figures]:
    """Return {"image": figures of the labelled Results, "video": of their videos}, or {}; see `evaluate`.

    The crops of a video are one: their mean has the verdict of a video, or, of fewer than three, of a crop.
    """
    known = [r for r in results if r.item.label and r.score is not None]
    if not known:
        return {}
    videos = group_by(known, lambda r: (r.item.label, r.item.dataset, r.item.video))
    means = [float(np.mean([r.score or 0 for r in own])) for own in videos.values()]
    kinds = ["video" if len(own) >= MIN_FACES_PER_PERSON else "image" for own in videos.values()]
    verdicts = [classify(mean, kind, rule) for mean, kind in zip(means, kinds, strict=True)]
    files = [r.item.label for r in known], [float(r.score or 0) for r in known], [r.verdict for r in known]
    return {"image": evaluate(*files), "video": evaluate([label for label, _, _ in videos], means, verdicts)}


def evaluate_by_dataset(results: Sequence[Result], rule: Rule) -> dict[str, dict[str, Figures]]:
    """Return {data set: {"image": figures, "video": figures}}, with "all" and "mean" added.

    "mean" has "auc" and "balanced_accuracy", averaged over the data sets in which both labels occur. A
    single data set is only in "all" and "mean". Each of several kinds of forgery ("other" if names tell none)
    follows as "<data set> <kind>": its forged faces against all of the data set's real ones.
    """
    sets = group_by(results, lambda r: r.item.dataset)
    rows = dict(sets) if len(sets) > 1 else {}
    for dataset, own in sets.items():
        real, fakes = ([r for r in own if r.item.label == label] for label in ("real", "df"))
        forged = group_by(fakes, lambda r: parse_forgery(r.item)[0] or "other")
        if len(forged) > 1:
            rows |= {f"{dataset} {kind}".strip(): found + real for kind, found in forged.items()}
    figures = {name: evaluate_results(rows[name], rule) for name in sorted(rows)}
    everything = evaluate_results(results, rule)
    both = [figures[name] for name in sets if "auc" in figures.get(name, {}).get("image", {})] or [everything]
    mean = {
        level: {key: float(np.mean([f[level][key] for f in both])) for key in ("balanced_accuracy", "auc")}
        for level in ("image", "video")
    }
    return figures | {"all": everything, "mean": mean}


def label_scores(items: Iterable[Item], scores: Iterable[float], threshold: float) -> list[Result]:
    """Return the Results of face crops and their scores."""
    pairs, rule = zip(items, scores, strict=True), Rule(threshold)
    return [Result(item, float(score), classify(score, "image", rule)) for item, score in pairs]


def choose_threshold(items: Sequence[Item], scores: Scores) -> float:
    """Return the multiple of 0.05 with the highest balanced accuracy over data sets, images and videos.

    Of equals, the nearest to 0.5. It is coarse so that it does not depend on single faces.
    """

    def measure_at(threshold: float) -> float:
        means = evaluate_by_dataset(label_scores(items, scores, threshold), Rule(threshold))["mean"]
        return float(round(np.mean([found["balanced_accuracy"] for found in means.values()]), 6))

    candidates = [round(0.05 * i, 2) for i in range(1, 20)]
    return max(candidates, key=lambda threshold: (measure_at(threshold), -abs(threshold - 0.5)))
