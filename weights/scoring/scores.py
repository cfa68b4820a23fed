"""Faces to scores: how real each looks to the network, 1 = real, 0 = forged.

A video's score is the mean of its faces' scores, the paper's aggregation; where several people appear, the
lowest person's mean decides. weights/verdicts.py says what a score means.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline import (
    CROP_ZOOM,
    EXTRACTED_NAME,
    Face,
    FoundFaces,
    Item,
    View,
    align_face,
    describe_error,
    load_face,
    load_faces,
    read_crop_header,
    read_frames,
    read_image,
    read_timeline,
    view_face,
)
from weights import Predict, Rule
from weights.scoring.verdicts import classify, verdict_of

LARGEST_PHOTO = 50_000_000  # pixels: larger photographs are reduced before faces are searched
BATCH_SIZE = 32  # faces that the network sees at once
NOT_SQUARE = "not square: the score of a whole photograph means nothing, see --align"
SMALL = "smaller than the faces that the weights were tested on"
NO_NOTE = "does not say that it is a face crop"
LOST_NOTE = "does not say how wide it was cut: seen whole, which shifts the score"


class Result(NamedTuple):
    """What came of one file: a face crop, or a video or photograph in which faces were searched."""

    item: Item
    score: float | None  # 1 = real, 0 = forged; None without a face or after an error
    verdict: str  # key of VERDICT_COLORS
    error: str  # the reason, or ""
    kind: str = "image"  # a face crop; else "video" or "photo"
    frames: int = 0  # frames sampled
    faces: tuple[Face, ...] = ()  # of a video or photograph, scored
    parts: tuple[tuple[str, float], ...] = ()  # (weights, score) of each of several weights
    warning: str = ""  # what weakens the verdict
    note: str = ""  # how the file was read

    @property
    def remarks(self) -> str:
        return ", ".join(filter(None, (self.warning, self.note)))


def score_crops(
    items: Sequence[Item],
    predict: Predict,
    view: View,
    threshold: float,
    batch_size: int = BATCH_SIZE,
    names: Sequence[str] = (),
) -> Iterator[Result]:
    """Yield the Result of each face crop, in order. Images are decoded in threads meanwhile.

    `names` are those of joined weights, of which the lowest score counts.
    """
    waiting: list[tuple[Item, str]] = []
    faces: list[np.ndarray] = []

    def score_waiting() -> Iterator[Result]:
        scores = iter(predict(np.stack(faces)) if faces else ())
        for item, reason in waiting:
            row = np.full(1, np.nan) if reason else np.atleast_1d(next(scores))
            score = None if reason else float(row.min())
            parts = () if reason else tuple(zip(names, map(float, row), strict=False))
            if score is None or np.isfinite(score):
                yield Result(item, score, verdict_of(score, threshold), reason, parts=parts)
            else:
                yield Result(item, None, "error", f"the weights are unusable: they gave the score {score}")
        waiting.clear()
        faces.clear()

    for item, face in zip(items, load_faces(items, view, 2 * batch_size), strict=True):
        if isinstance(face, Exception):
            waiting.append((item, describe_error(face)))
        else:
            waiting.append((item, ""))
            faces.append(face)
        if len(faces) == batch_size:
            yield from score_waiting()
    yield from score_waiting()


def warn_of_crop(result: Result, view: View, rule: Rule) -> Result:
    """Return the Result of a face crop with a warning if it can hardly be one, or was not seen as meant."""
    if result.score is None:
        return result
    try:
        width, height, zoom = read_crop_header(result.item.path)
    except (OSError, ValueError, MemoryError):
        return result
    if max(width, height) > 1.2 * min(width, height):
        return result._replace(warning=NOT_SQUARE)
    if zoom is None and view.zoom < CROP_ZOOM and EXTRACTED_NAME.fullmatch(result.item.path.stem):
        return result._replace(warning=LOST_NOTE)
    small = width / (zoom or view.zoom) < rule.min_size
    return result._replace(warning=SMALL if small else "", note="" if zoom else NO_NOTE)


def score_faces(
    found: Iterable[FoundFaces], predict: Predict, view: View
) -> tuple[list[int], tuple[Face, ...], int]:
    """Return (indices of the frames, scored Faces, faces skipped) of what `pipeline.find_faces` yields.

    Faces are scored in batches while others are still being found. Raises ValueError when the network
    returns NaN or infinity.
    """
    sampled: list[int] = []
    scored: list[Face] = []
    waiting: list[Face] = []

    def score_batch() -> None:
        batch = waiting[:BATCH_SIZE]
        scores = predict(np.stack([view_face(face.crop, view) for face in batch]))
        if not np.isfinite(scores).all():
            raise ValueError("the weights are unusable: they gave a score that is not a number")
        scored.extend(
            face._replace(crop=None, score=float(np.min(score)), parts=tuple(map(float, np.ravel(score))))
            for face, score in zip(batch, scores, strict=True)
        )
        del waiting[:BATCH_SIZE]

    skipped = 0
    for frame, faces, refused in found:
        sampled.append(frame.index)
        skipped += refused
        waiting += faces
        while len(waiting) >= BATCH_SIZE:
            score_batch()
    if waiting:
        score_batch()
    return sampled, tuple(scored), skipped


def summarize(results: Sequence[Result], rule: Rule) -> dict[str, Any]:
    """Return counts of the Results (files, scored, skipped, no_face, each verdict) and, over those scored,
    average_score, deepfake_percent (scores below the threshold, as published) and the verdict on the average
    (None and "error" if nothing was scored)."""
    scores = [r.score for r in results if r.score is not None]
    verdicts = Counter(r.verdict for r in results)
    average = float(np.mean(scores)) if scores else None
    kinds = {r.kind for r in results if r.score is not None}
    kind = kinds.pop() if len(kinds) == 1 else ""  # of several, the threshold decides
    deepfakes = sum(r.score is not None and r.score < rule.threshold_of(r.kind) for r in results)
    return {
        "files": len(results),
        "scored": len(scores),
        "skipped": len(results) - len(scores) - verdicts["no face"],
        "no_face": verdicts["no face"],
        "verdicts": dict(verdicts),
        "average_score": average,
        "deepfake_percent": 100 * deepfakes / len(scores) if scores else None,
        "verdict": "error" if average is None else classify(average, kind, rule),
    }


def group_by_folder(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return {folder: its Results}, in order of appearance."""
    folders = defaultdict(list)
    for result in results:
        folders[str(result.item.path.parent)].append(result)
    return folders


def read_photo(path: Path) -> np.ndarray:
    """Return a photograph as `read_image` does, reduced by a whole factor to at most 50 megapixels."""
    image = read_image(path)
    factor = math.ceil(math.sqrt(image.shape[0] * image.shape[1] / LARGEST_PHOTO))
    return image if factor == 1 else np.asarray(Image.fromarray(image).reduce(factor))


def load_scored_faces(result: Result, faces: Sequence[Face | None], view: View) -> list[np.ndarray | None]:
    """Return the pixels that the network saw, uint8 (256, 256, 3), or None where they cannot be read again.

    `faces` says which faces of a video or photograph; for a face crop it is [None].
    """
    try:
        if result.kind == "image":
            return [load_face(result.item.path, view)]
        timeline = read_timeline(result.item.path) if result.kind == "video" else None
        image = None if timeline else read_photo(result.item.path)
    except (OSError, ValueError):
        return [None] * len(faces)
    found: list[np.ndarray | None] = []
    for face in faces:
        if timeline and face:
            near = (face.time - 5e-4, face.time + 5e-4)
            try:
                image = next(read_frames(result.item.path, 1, *near, timeline=timeline)).image
            except (OSError, ValueError):
                image = None
        # a face so much larger than its picture comes from a damaged table that was resumed
        if face is None or image is None or face.pose.size > 2 * max(image.shape):
            found.append(None)
        else:
            found.append(view_face(align_face(image, face.pose), view))
    return found


def load_scored_face(result: Result, face: Face | None, view: View) -> np.ndarray | None:
    """Return the pixels of one face, see `load_scored_faces`."""
    return load_scored_faces(result, [face], view)[0]
