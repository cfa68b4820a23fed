"""Pictures of results: scores over time, ROC curve, and maps of evidence in a face."""

import warnings
from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from pipeline import IMAGE_SIZE, LABELS, show_progress
from weights import Predict, Rule
from weights.scoring.metrics import compute_logits
from weights.scoring.scores import BATCH_SIZE, Result
from weights.scoring.verdicts import list_people, lower_bound

warnings.filterwarnings("ignore", "Glyph")  # of Matplotlib, which lacks some of the world's letters
# dark enough for white text on them: a contrast of at least 4.5
COLORS = {"deepfake": "#c62828", "uncertain": "#8a5a00", "real": "#1565a8", "no face": "#666666",
          "error": "#666666"}  # fmt: skip
MOST_PEOPLE = 8  # in a timeline: more lines could not be told apart
WIDTH = 5  # inches, as wide as a phone's screen, so that text stays legible there


def draw_timeline(result: Result, rule: Rule) -> Figure:
    """Draw a video's scores over time, a line per person (of many, the lowest), and the bounds."""
    people = list_people(result.faces, "video", rule)
    shown = sorted(people, key=attrgetter("score"))[:MOST_PEOPLE]
    figure = Figure((WIDTH, 2.4 + 0.2 * len(shown)), layout="constrained")
    panel = figure.subplots()
    for person in sorted(shown):
        name = f"person {person.number}: " if len(people) > 1 else ""
        label = f"{name}mean {person.score:.3f}, {person.verdict}"
        panel.plot([f.time for f in person.faces], [f.score for f in person.faces], marker="o", label=label)
    lower = upper = rule.threshold
    if rule.video:
        lower = lower_bound(rule.video, max(1, sum(person.counts for person in people)))
        upper = rule.video.upper
        panel.axhspan(lower, upper, color=COLORS["uncertain"], alpha=0.12)
    panel.axhline(lower, color=COLORS["deepfake"], linestyle=":")
    panel.axhline(upper, color=COLORS["real"], linestyle=":")
    across = panel.get_yaxis_transform()  # x as a share of the width
    panel.text(0.01, lower, "deepfake below", color=COLORS["deepfake"], va="top", transform=across)
    panel.text(0.01, upper, "real above", color=COLORS["real"], va="bottom", transform=across)
    panel.set(ylim=(-0.03, 1.03), xlabel="seconds", ylabel="score (1 = real)")
    figure.legend(loc="outside lower center")
    return figure


def draw_roc(results: Sequence[Result]) -> Figure:
    """Draw the ROC curve of labelled Results: at each threshold, the shares of both labels called real."""
    scores = [np.sort([r.score for r in results if r.item.label == label]) for label in LABELS]
    thresholds = [*np.unique(np.concatenate(scores)), 2.0]  # none is 2 or more
    shares = [1 - np.searchsorted(own, thresholds) / len(own) for own in scores]
    figure = Figure((WIDTH, 3.6), layout="constrained")
    panel = figure.subplots()
    panel.plot(*shares)
    panel.plot((0, 1), (0, 1), color="grey", linestyle=":")
    panel.set(xlabel="share of forged called real", ylabel="share of real called real", aspect="equal")
    return figure


# --- where in a face the evidence lies ------------------------------------------------------------

PATCH, STRIDE = 32, 16  # pixels of a 256x256 face
STARTS = range(0, IMAGE_SIZE - PATCH + 1, STRIDE)
PATCHES = [np.s_[y : y + PATCH, x : x + PATCH] for y in STARTS for x in STARTS]
OPACITY = 0.55  # of the colours over the face


def measure_evidence(face: np.ndarray, predict: Predict) -> np.ndarray:
    """Return how much each patch of a face speaks for "forged": float64 (15, 15), in logits.

    Occlusion: each patch in turn is replaced by the face's own shuffled pixels. The value is the rise of the
    logit (the score itself saturates), negative where the face speaks for real. `face`: uint8 (256, 256, 3).
    """
    shuffled = np.random.default_rng(0).permutation(face.reshape(-1, 3)).reshape(face.shape)
    scores = [predict(face[None])]
    for start in range(0, len(PATCHES), BATCH_SIZE):
        patches = PATCHES[start : start + BATCH_SIZE]
        occluded = np.repeat(face[None], len(patches), axis=0)
        for image, patch in zip(occluded, patches, strict=True):
            image[patch] = shuffled[patch]
        scores.append(predict(occluded))
    logits = compute_logits(np.concatenate(scores)[:, 0])
    return (logits[1:] - logits[0]).reshape(len(STARTS), len(STARTS))


def measure_normal(faces: np.ndarray, predict: Predict) -> dict[str, float]:
    """Return how strong maps of real faces, uint8 (N, 256, 256, 3), are: what a card holds as "maps".

    "usual" is how far 95 % of them rise at most; "limit" is where the colours of pictures end.
    """
    found = np.stack([measure_evidence(face, predict) for face in show_progress(faces, len(faces), "map")])
    usual, limit = np.quantile(found.max(axis=(1, 2)), 0.95), np.quantile(np.abs(found), 0.995)
    return {"faces": len(faces), "usual": round(float(usual), 3), "limit": round(float(limit), 3)}


def paint_evidence(face: np.ndarray, patches: np.ndarray, limit: float) -> np.ndarray:
    """Return a face overlaid with its map of evidence, uint8 (256, 256, 3): red is forged, blue real.

    A pixel shows the mean of the patches that cover it. The colours end at `limit`, the same for all faces.
    """
    total, covers = np.zeros((2, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for rise, patch in zip(patches.ravel(), PATCHES, strict=True):
        total[patch] += rise
        covers[patch] += 1
    colors = colormaps["RdBu_r"](total / covers / (2 * limit) + 0.5)[..., :3] * 255
    return ((1 - OPACITY) * face + OPACITY * colors).round().astype(np.uint8)
