"""Faces to scores, and scores to verdicts.

A score is P(real): 1 = real, 0 = forged. Below the threshold of the weights the verdict is "deepfake".
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline import (
    Face,
    FoundFaces,
    Item,
    align_face,
    describe_error,
    load_faces,
    read_frames,
    read_image,
    resize_face,
)
from weights import Predict


class Result(NamedTuple):
    """What was found of one image or video. `verdict`: "real", "deepfake", "no face" or "error".

    The last three tell of what faces were looked for in: a video, or a photograph.
    """

    item: Item
    score: float | None  # P(real), None when there is none; of several people the lowest
    verdict: str
    error: str  # the reason, or ""
    kind: str = "image"  # or "video" or "photo"
    frames: int = 0  # sampled
    faces: tuple[Face, ...] = ()


def score_images(
    images: Sequence[Item], predict: Predict, resampling: str, threshold: float, batch_size: int = 32
) -> Iterator[Result]:
    """Yield the Score of each Item, in order; decoding runs in threads beside the network."""
    waiting: list[tuple[Item, str]] = []
    faces: list[np.ndarray] = []

    def score_waiting() -> Iterator[Result]:
        scores = iter(predict(np.stack(faces)) if faces else ())
        for image, reason in waiting:
            score = None if reason else float(next(scores))
            if score is None or np.isfinite(score):
                yield Result(image, score, verdict_of(score, threshold), reason)
            else:
                yield Result(image, None, "error", f"the network gave {score}: these weights are no good")
        waiting.clear()
        faces.clear()

    for image, face in zip(images, load_faces(images, resampling, ahead=2 * batch_size), strict=True):
        if isinstance(face, Exception):
            waiting.append((image, describe_error(face)))
        else:
            waiting.append((image, ""))
            faces.append(face)
        if len(faces) == batch_size:
            yield from score_waiting()
    yield from score_waiting()


def score_faces(
    found: Iterable[FoundFaces], predict: Predict, resampling: str, batch_size: int = 32
) -> tuple[list[int], tuple[Face, ...]]:
    """Return (indices of the frames, scored Faces) of what `find_faces` yields, scoring meanwhile."""
    sampled, scored = [], []
    waiting: list[Face] = []

    def score_batch() -> None:
        batch = waiting[:batch_size]
        scores = predict(np.stack([resize_face(face.crop, resampling) for face in batch]))
        if not np.isfinite(scores).all():
            raise ValueError("the network gave no number: these weights are no good")
        for face, score in zip(batch, scores, strict=True):
            scored.append(face._replace(crop=None, score=float(score)))
        del waiting[:batch_size]

    for frame, faces, _ in found:
        sampled.append(frame.index)
        waiting += faces
        while len(waiting) >= batch_size:
            score_batch()
    if waiting:
        score_batch()
    return sampled, tuple(scored)


MIN_FACES_PER_PERSON = 3  # a person seen in fewer frames of a video decides nothing


def average_people(faces: Iterable[Face]) -> dict[int, tuple[float, int]]:
    """Return {person: (mean score, faces)} of scored Faces: the paper's aggregation, per person."""
    people = defaultdict(list)
    for face in faces:
        people[face.person].append(face.score)
    return {person: (float(np.mean(scores)), len(scores)) for person, scores in sorted(people.items())}


def lowest_person_score(people: dict[int, tuple[float, int]]) -> float | None:
    """Return the lowest mean score of the people seen often enough, None where there are none."""
    often = {person: found for person, found in people.items() if found[1] >= MIN_FACES_PER_PERSON}
    return min((score for score, _ in (often or people).values()), default=None)


def verdict_of(score: float | None, threshold: float) -> str:
    """Return the verdict on a score: "deepfake" below the threshold, else "real"; "error" on None."""
    if score is None:
        return "error"
    return "deepfake" if score < threshold else "real"


def summarize(scores: Sequence[Result], threshold: float) -> dict[str, Any]:
    """Return the outcome of many Scores: a dict of their number, how many of them were scored, skipped
    and without a face, and, where some were scored, average_score in [0, 1], deepfake_percent and the
    verdict on the average."""
    values = [s.score for s in scores if s.score is not None]
    no_face = sum(s.verdict == "no face" for s in scores)
    average = float(np.mean(values)) if values else None
    deepfakes = sum(s.verdict == "deepfake" for s in scores)
    return {
        "images": len(scores),
        "scored": len(values),
        "skipped": len(scores) - len(values) - no_face,
        "no_face": no_face,
        "average_score": average,
        "deepfake_percent": 100 * deepfakes / len(values) if values else None,
        "verdict": verdict_of(average, threshold),
    }


def group_by_folder(scores: Iterable[Result]) -> dict[str, list[Result]]:
    """Return {folder: its Scores}, in order of appearance; the folder as in the images' paths."""
    folders = defaultdict(list)
    for score in scores:
        folders[str(score.item.path.parent)].append(score)
    return folders


def load_scored_face(score: Result, face: Face | None, resampling: str) -> np.ndarray | None:
    """Return what the network saw, uint8 (256, 256, 3), None when the file cannot be read any more.

    Of a video or photograph the Face says which face; of a face crop it is None.
    """
    try:
        if face and score.kind == "video":
            near = (face.time - 5e-4, face.time + 5e-4)
            crop = align_face(next(read_frames(score.item.path, 1, *near)).image, face.pose)
        else:
            image = read_image(score.item.path)
            crop = align_face(image, face.pose) if face else image
        return resize_face(crop, resampling)
    except (OSError, ValueError):
        return None


VERDICT_INKS = {"real": "#1f77b4", "deepfake": "#d62728", "no face": "#7f7f7f", "error": "#7f7f7f"}
