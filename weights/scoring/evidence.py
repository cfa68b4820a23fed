"""Where in a face the evidence lies: maps by occlusion, what is normal in them, and their pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import IMAGE_SIZE
from weights import Predict
from weights.scoring.outputs import save_figure
from weights.scoring.scores import BATCH_SIZE

PATCH, STRIDE = 32, 16  # pixels of a 256x256 face
STARTS = range(0, IMAGE_SIZE - PATCH + 1, STRIDE)
PATCHES = [np.s_[y : y + PATCH, x : x + PATCH] for y in STARTS for x in STARTS]
OPACITY = 0.55  # of the colours over the face
LIMIT = 1.0  # logits: where the colours end, if the weights' card does not say


def shuffle_pixels(face: np.ndarray) -> np.ndarray:
    """Return a face's pixels in random order, the same at each call."""
    return np.random.default_rng(0).permutation(face.reshape(-1, 3)).reshape(face.shape)


def measure_evidence(
    face: np.ndarray, predict: Predict, hide: Callable[[np.ndarray], np.ndarray] = shuffle_pixels
) -> np.ndarray:
    """Return how much each patch of a face speaks for "forged": float64 (15, 15), in logits.

    Occlusion: each patch in turn is replaced by that of hide(face). The value is the rise of the logit:
    positive where the face speaks for forged, negative where it speaks for real. The logit is used since the
    score itself saturates. `face` is uint8 (256, 256, 3); `predict` returns one score for each face.
    """
    hidden = hide(face)
    scores = []
    for start in range(0, len(PATCHES), BATCH_SIZE):
        patches = PATCHES[start : start + BATCH_SIZE]
        occluded = np.repeat(face[None], len(patches), axis=0)
        for image, patch in zip(occluded, patches, strict=True):
            image[patch] = hidden[patch]
        scores.append(predict(occluded))
    rises = compute_logits(np.concatenate(scores)) - compute_logits(predict(face[None]))
    return rises.reshape(len(STARTS), len(STARTS))


def map_evidence(patches: np.ndarray) -> np.ndarray:
    """Return the map of evidence of patches (see `measure_evidence`), float32 (256, 256).

    A pixel's value is the mean over the patches that cover it.
    """
    total, covers = np.zeros((2, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for rise, patch in zip(patches.ravel(), PATCHES, strict=True):
        total[patch] += rise
        covers[patch] += 1
    return total / covers


def compute_logits(scores: np.ndarray) -> np.ndarray:
    """Return the logits of scores, float64 (N,); scores of exactly 0 or 1 are moved inwards."""
    scores = np.clip(scores.astype(np.float64), 1e-30, 1 - 2.0**-25)
    return np.log(scores) - np.log1p(-scores)


def measure_normal(faces: np.ndarray, predict: Predict) -> dict[str, Any]:
    """Return what is normal in maps of real faces, uint8 (N, 256, 256, 3): what a card holds as "maps".

    "normal" is the mean of their patches; "usual" is how far 95 % of them rise above it at most; "limit" is
    where the colours of pictures end.
    """
    found = np.stack([measure_evidence(face, predict) for face in faces])
    normal = found.mean(axis=0)
    rises = (found - normal).max(axis=(1, 2))
    limit = float(np.quantile(np.abs(found), 0.995))
    return {
        "faces": len(faces),
        "normal": [[round(value, 3) for value in row] for row in normal.tolist()],
        "usual": round(float(np.quantile(rises, 0.95)), 3),
        "limit": round(limit, 3),
    }


def describe_evidence(patches: np.ndarray, card: dict[str, Any]) -> str:
    """Return in words whether a map shows more than maps of real faces do, "" if the card does not say."""
    if "maps" not in card:
        return ""
    rises = patches - np.array(card["maps"]["normal"])
    if rises.max() <= card["maps"]["usual"]:
        return "Nothing unusual: the strongest patch is within the range of 95 % of real faces."
    y, x = np.unravel_index(rises.argmax(), rises.shape)
    row, column = (int(i) * 3 // len(STARTS) for i in (y, x))
    where = f"{('upper', '', 'lower')[row]} {('left', '', 'right')[column]}".strip()
    where = f"{where} part" if where else "centre"
    return f"Unusual: a patch in the {where} of the picture is stronger than any in 95 % of real faces."


def paint_evidence(face: np.ndarray, patches: np.ndarray, card: dict[str, Any]) -> np.ndarray:
    """Return a face overlaid with its map of evidence, uint8 (256, 256, 3): red for forged, blue for real.

    The colours end where the card says, so that they mean the same for all faces.
    """
    from matplotlib import colormaps

    shades = map_evidence(patches) / (2 * find_limit(card)) + 0.5
    colors = colormaps["RdBu_r"](shades)[..., :3] * 255
    return ((1 - OPACITY) * face + OPACITY * colors).round().astype(np.uint8)


def paint_normal(card: dict[str, Any]) -> np.ndarray | None:
    """Return the mean map of real faces, painted likewise on white; None if the card has none."""
    white = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 255, np.uint8)
    return paint_evidence(white, np.array(card["maps"]["normal"]), card) if "maps" in card else None


def find_limit(card: dict[str, Any]) -> float:
    return card["maps"]["limit"] if "maps" in card else LIMIT


def draw_evidence(face: np.ndarray, patches: np.ndarray, card: dict[str, Any], title: str) -> Any:
    """Return a figure: a face, its map of evidence and, if the card has it, the mean map of real faces."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    pictures = {"": face, "speaks for forged (red) or real (blue)": paint_evidence(face, patches, card)}
    normal = paint_normal(card)
    if normal is not None:
        pictures["what is normal: the mean of real faces"] = normal
    figure = Figure(figsize=(3.6 * len(pictures) + 0.4, 4), layout="constrained")
    panels = figure.subplots(1, len(pictures))
    for panel, (name, picture) in zip(panels, pictures.items(), strict=True):
        panel.imshow(picture)
        panel.set_title(name, fontsize=9)
        panel.axis("off")
    limit = find_limit(card)
    scale = ScalarMappable(Normalize(-limit, limit), colormaps["RdBu_r"])
    figure.colorbar(scale, ax=list(panels), label="logit")
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def plot_evidence(
    face: np.ndarray, patches: np.ndarray, card: dict[str, Any], title: str, path: Path
) -> None:
    """Write the figure of `draw_evidence`, with what it shows in words."""
    title = "\n".join(filter(None, (title, describe_evidence(patches, card))))
    save_figure(draw_evidence(face, patches, card, title), path)
