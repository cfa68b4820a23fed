"""Choose the threshold and the bounds of "uncertain" for existing weights, on labelled faces.

    python3 training/calibrate.py Meso4 --data data/validation --name calibrated/Meso4

writes calibrated/Meso4.weights.h5, .tflite and .json; the weights given and their card stay as they are. The
faces must not have been trained on. Bounds need at least 19 real and 9 forged videos of three faces each.

The bounds are those of split conformal prediction (Angelopoulos and Bates, "A Gentle Introduction to
Conformal Prediction", arXiv 2107.07511): if a new real video is drawn like the n real ones here, it falls
below the k-th smallest of their scores with a probability of at most k / (n + 1), whatever the scores'
distribution. For other kinds of videos or forgeries nothing is promised.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import numpy as np

import pipeline
from pipeline import View, measure_sharpness, parse_forgery, read_image, read_zoom
from training import data
from training.recipe import count_faces
from weights import check_free, find_keras_weights, read_rule, write_weights
from weights.scoring.figures import measure_normal
from weights.scoring.metrics import choose_threshold, compute_logits, evaluate_by_dataset, label_scores
from weights.scoring.verdicts import FORGED_ERROR, MIN_FACES_PER_PERSON, REAL_ERROR

if TYPE_CHECKING:
    from classifiers import Classifier

MAPPED = 100  # real faces whose maps of evidence show what is normal


def main(argv: Sequence[str] | None = None) -> int:
    parser = pipeline.make_parser(__doc__)
    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="Keras weights, by name or path")
    add("--data", type=Path, default=Path("data/validation"), metavar="FOLDER", help="holds df/ and real/")
    add("--name", type=Path, required=True, metavar="NEW", help="of the files to write, without suffix")
    arguments = parser.parse_args(argv)
    try:
        check_free(arguments.name)
        weights = find_keras_weights(arguments.weights)
        items, remarks = data.list_faces(arguments.data)
        arguments.name.parent.mkdir(parents=True, exist_ok=True)
        face_set = data.load_faces(items, weights.view, arguments.name.parent)
        for remark in (*remarks, *face_set.remarks):
            print(f"warning: {remark}", file=sys.stderr)
        with pipeline.silence_native_stderr():
            from classifiers import load_classifier
        classifier = load_classifier(weights.path)
        card = {**weights.view._asdict(), **weights.card}
        card, doubts = calibrate(card, classifier, face_set, weights.view)
        write_weights(classifier, arguments.name, card)
    except (OSError, ValueError) as error:
        return pipeline.fail(2, error)
    print(describe_calibration(card, doubts))
    print(f"wrote {arguments.name}.weights.h5, .tflite and .json")
    return 0


def calibrate(
    card: dict[str, Any], classifier: "Classifier", face_set: data.FaceSet, view: View
) -> tuple[dict[str, Any], list[str]]:
    """Return (the card with what labelled faces say of the weights, doubts in words).

    The threshold that does best, the bounds of "uncertain", the figures, and what is normal in maps of
    evidence.
    """
    items, scores = face_set.items, classifier.predict(face_set.faces)[:, 0]
    threshold = choose_threshold(items, scores)
    card = {**card, "threshold": threshold, "calibrated_on": count_faces(items)}
    card["calibration"] = choose_calibration(face_set, scores, view)
    doubts = []
    if not card["calibration"]:
        del card["calibration"]
        doubts.append('too few videos for "uncertain": 19 real and 9 forged are needed, of 3 faces each')
    found = evaluate_by_dataset(label_scores(items, scores, threshold), read_rule(card))
    if (auc := found["mean"]["image"]["auc"]) < 0.5:
        doubts.append(f"AUC {auc:.3f} is below 0.5, worse than chance: these weights do not suit these faces")
    chosen = pipeline.pick_evenly(np.flatnonzero(face_set.labels[:, 0]).tolist(), MAPPED)
    maps = measure_normal(face_set.faces[chosen], lambda faces: classifier.predict(faces)[:, 0])
    return {**card, "validation": found, "maps": maps}, doubts


def describe_calibration(card: dict[str, Any], doubts: Sequence[str]) -> str:
    """Return the threshold, the bounds, the figures of a card and the doubts in words."""
    lines = [f"threshold {card['threshold']:g}: a face below it is called a deepfake"]
    if "calibration" in card:
        video = card["calibration"]["video"]
        lines.append(f"videos: deepfake below {video['lower']:.3f}, real above {video['upper']:.3f}")
    for name, levels in card["validation"].items():
        shown = [f"{figures['auc']:.3f} by {level}" for level, figures in levels.items() if "auc" in figures]
        lines += [f"AUC of {name or 'no data set'}: {', '.join(shown)}"] * bool(shown)
    return "\n".join([*lines, *(f"warning: {doubt}" for doubt in doubts)])


def choose_calibration(face_set: data.FaceSet, scores: np.ndarray, view: View) -> dict[str, Any] | None:
    """Return what a card holds as "calibration", or None if there are too few videos.

    Videos are those with at least three faces; of every video one face, the middle one, stands for single
    faces.
    """
    groups = defaultdict(list)  # indices of the faces of each video
    for index, item in enumerate(face_set.items):
        groups[item.label, item.dataset, item.video].append(index)
    videos = {key: own for key, own in groups.items() if len(own) >= MIN_FACES_PER_PERSON}
    means = {key: float(scores[own].mean()) for key, own in videos.items()}
    singles = {key: float(scores[own[len(own) // 2]]) for key, own in groups.items()}
    face, video = (
        choose_bounds(*([v for key, v in found.items() if key[0] == label] for label in ("real", "df")))
        for found in (singles, means)
    )
    if not face or not video:
        return None
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: {"deepfake": 0, "uncertain": 0, "real": 0})
    for (label, dataset, _), own in sorted(videos.items()):
        kind = "real" if label == "real" else parse_forgery(face_set.items[own[0]])[0] or "forged"
        mean = float(scores[own].mean())
        verdict = "deepfake" if mean < video["lower"] else "real" if mean > video["upper"] else "uncertain"
        kinds[f"{dataset} {kind}".strip()][verdict] += 1
    min_size, min_sharpness = measure_faces(
        [face_set.items[i].path for own in videos.values() for i in own], view
    )
    return {
        "face": face,
        "video": video,
        "min_size": min_size,
        "min_sharpness": min_sharpness,
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


def compute_interval(rank: int, count: int) -> list[float]:
    """Return where the true share below the rank-th smallest of `count` draws lies in 90 % of cases.

    Its chance to lie below a share is that of at least `rank` of the draws falling below it: a binomial sum.
    """

    def find_share(chance: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(30):
            share = (low + high) / 2
            below = sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(rank))
            low, high = (share, high) if 1 - below < chance else (low, share)
        return round(share, 3)

    return [find_share(0.05), find_share(0.95)]


def measure_faces(paths: Sequence[Path], view: View) -> tuple[float, float]:
    """Return (Pose.size in pixels, sharpness): few of the faces are smaller or more blurred.

    A crop that does not say how wide it was cut is seen whole: it is as wide as the view. Half a percent of
    the faces are smaller, since sizes end sharply where the detector begins; one percent are more blurred.
    """
    crops = [(read_image(path), read_zoom(path)) for path in paths]
    sizes = [crop.shape[1] / (zoom or view.zoom) for crop, zoom in crops]
    sharpness = [measure_sharpness(crop) for crop, _ in crops]
    return round(float(np.quantile(sizes, 0.005)), 1), round(float(np.quantile(sharpness, 0.01)), 2)


if __name__ == "__main__":
    pipeline.run(main)
