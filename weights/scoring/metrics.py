"""How well scores separate real faces from forged ones: ROC, AUC, EER, accuracy, per data set."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline import Item, parse_forgery
from weights import Bounds, Rule
from weights.scoring.scores import Result
from weights.scoring.verdicts import verdict_of

Scores = Sequence[float] | np.ndarray  # (N,), 1 = real, 0 = forged
Figures = dict[str, float]  # see `evaluate`


def compute_roc(labels: Sequence[str], scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return (share of "df" called real, share of "real" called real), from the strictest threshold down.

    Float (n + 1,) each, from 0 to 1, for the n different scores. Both labels must occur.
    """
    real, scores = _is_real(labels), np.asarray(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    shares = (np.cumsum(chosen[order])[last_of_ties] / chosen.sum() for chosen in (~real, real))
    false_real, true_real = (np.concatenate(([0.0], share)) for share in shares)
    return false_real, true_real


def compute_auc(labels: Sequence[str], scores: Scores) -> float:
    """Return the area under the ROC curve: the chance that a real face scores above a forged one."""
    false_real, true_real = compute_roc(labels, scores)
    return float(np.sum(np.diff(false_real) * (true_real[1:] + true_real[:-1])) / 2)


def compute_eer(labels: Sequence[str], scores: Scores) -> float:
    """Return the equal error rate: where as many real faces are called forged as forged ones real."""
    false_real, true_real = compute_roc(labels, scores)
    return float(np.interp(0, false_real + true_real - 1, false_real))


def evaluate(
    labels: Sequence[str], scores: Scores, threshold: float, bounds: Bounds | None = None
) -> Figures:
    """Return a dict of "count" and of fractions in [0, 1]: how well scores separate "real" from "df".

    "accuracy", "accuracy_df" and "accuracy_real" as far as these labels occur; where both do, also
    "balanced_accuracy", "auc" and "eer"; with `bounds`, "uncertain", the share between them.
    """
    real = _is_real(labels)
    right = (np.asarray(scores) >= threshold) == real
    found = {"count": len(right), "accuracy": float(right.mean())}
    for label, chosen in (("df", ~real), ("real", real)):
        if chosen.any():
            found[f"accuracy_{label}"] = float(right[chosen].mean())
    if real.any() and not real.all():
        found["balanced_accuracy"] = (found["accuracy_df"] + found["accuracy_real"]) / 2
        found["auc"] = compute_auc(labels, scores)
        found["eer"] = compute_eer(labels, scores)
    if bounds:
        found["uncertain"] = float(np.mean([bounds.lower <= score <= bounds.upper for score in scores]))
    return found


def compute_logits(scores: np.ndarray) -> np.ndarray:
    """Return the logits of scores, float64 (N,); scores of exactly 0 or 1 are moved inwards."""
    scores = np.clip(scores.astype(np.float64), 1e-30, 1 - 2.0**-25)
    return np.log(scores) - np.log1p(-scores)


def _is_real(labels: Sequence[str]) -> np.ndarray:
    return np.array([label == "real" for label in labels])


def collect_labelled(results: Iterable[Result]) -> dict[str, tuple[list[str], list[float]]]:
    """Return {"image": (labels, scores), "video": (labels, scores)} of the labelled Results.

    A video's score is the mean of its images' scores. Empty if no Result has a label and a score.
    """
    known = [(r.item, r.score) for r in results if r.item.label and r.score is not None]
    videos = defaultdict(list)
    for item, score in known:
        videos[item.label, item.video].append(score)
    if not known:
        return {}
    return {
        "image": ([item.label for item, _ in known], [score for _, score in known]),
        "video": ([label for label, _ in videos], [float(np.mean(v)) for v in videos.values()]),
    }


def evaluate_results(results: Iterable[Result], rule: Rule) -> dict[str, Figures]:
    """Return {"image": figures, "video": figures} of the labelled Results (see `evaluate`), or {}.

    Where every video is a single image, both are the same, by the Rule for a face.
    """
    levels = collect_labelled(results)
    if not levels:
        return {}
    found = {"image": evaluate(*levels["image"], rule.threshold, rule.face)}
    if len(levels["video"][0]) < len(levels["image"][0]):
        return found | {"video": evaluate(*levels["video"], rule.video_threshold, rule.video)}
    return found | {"video": found["image"]}


def evaluate_by_dataset(results: Sequence[Result], rule: Rule) -> dict[str, dict[str, Figures]]:
    """Return {data set: {"image": figures, "video": figures}}, with "all" and "mean" added.

    "mean" has "auc" and "balanced_accuracy", averaged over the data sets in which both labels occur. A
    single data set is only in "all" and "mean". Of a data set with several kinds of forgery, each kind
    follows it as "<data set> <kind>": its forged faces against all of the data set's real ones. Those whose
    names tell no kind are "other".
    """
    by_dataset = defaultdict(list)
    for result in results:
        by_dataset[result.item.dataset].append(result)
    found, kinds = {}, {}
    for dataset, own in sorted(by_dataset.items()):
        found[dataset] = evaluate_results(own, rule)
        for kind, members in split_kinds(own).items():
            kinds[f"{dataset} {kind or 'other'}".strip()] = evaluate_results(members, rule)
    everything = evaluate_results(results, rule)
    both = [levels for levels in found.values() if "auc" in levels["image"]] or [everything]
    mean = {
        level: {key: float(np.mean([f[level][key] for f in both])) for key in ("balanced_accuracy", "auc")}
        for level in ("image", "video")
    }
    rows = dict(sorted((found | kinds).items())) if len(found) > 1 else kinds
    return rows | {"all": everything, "mean": mean}


def split_kinds(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return {kind of forgery: Results of that kind and all real ones}, {} if there is only one kind."""
    kinds: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.item.label == "df":
            kinds[parse_forgery(result.item)[0]].append(result)
    real = [result for result in results if result.item.label == "real"]
    return {kind: own + real for kind, own in sorted(kinds.items())} if len(kinds) > 1 else {}


def label_scores(items: Iterable[Item], scores: Iterable[float], threshold: float) -> list[Result]:
    """Return the Results of face crops and their scores."""
    return [
        Result(item, float(score), verdict_of(score, threshold), "")
        for item, score in zip(items, scores, strict=True)
    ]


def choose_threshold(
    items: Sequence[Item],
    scores: Scores,
    levels: Sequence[str] = ("image", "video"),
    lowest: float = 0.3,
    highest: float = 0.7,
) -> float:
    """Return the threshold with the highest balanced accuracy: a multiple of 0.05, `lowest` to `highest`.

    Averaged over data sets and over the levels; of equals, the nearest to 0.5. It is coarse so that it
    does not depend on single faces. The middle, if no multiple lies between.
    """

    def measure_at(threshold: float) -> float:
        rule = Rule(threshold, threshold)
        means = evaluate_by_dataset(label_scores(items, scores, threshold), rule)["mean"]
        return float(round(np.mean([means[level]["balanced_accuracy"] for level in levels]), 6))

    multiples = [round(0.05 * i, 2) for i in range(1, 20)]
    candidates = [multiple for multiple in multiples if lowest <= multiple <= highest]
    if not candidates:
        return (lowest + highest) / 2
    return max(candidates, key=lambda threshold: (measure_at(threshold), -abs(threshold - 0.5)))
