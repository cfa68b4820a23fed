"""Faces to scores: how real each looks to the network, 1 = real, 0 = forged."""

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import pipeline
from pipeline import Face, FaceOptions, Frame, Item, Pose, View
from weights import Predict, Rule, Weights, load_predictor
from weights.scoring.verdicts import classify, decide, list_doubts

BATCH_SIZE = 32  # faces that the network sees at once
LARGEST_CROP = 400  # pixels: larger square pictures may be photographs
SEARCHED = 320  # pixels: side at which such a picture is searched for a face
NOT_SQUARE = "not square, so hardly a face crop"
NO_FACE = "taken for a face crop, but no face was found in it"
UNUSABLE = "the weights are unusable: they gave the score"
LOST_NOTE = "does not say how wide it was cut, which shifts the score: extract it again"


class Result(NamedTuple):
    """What came of one file: a face crop, or a video or photograph in which faces were searched."""

    item: Item
    score: float | None  # 1 = real, 0 = forged; None without a face or after an error
    verdict: str  # "deepfake", "uncertain", "real", "no face" or "error"
    error: str = ""  # the reason
    frames: int = 0  # frames sampled
    faces: tuple[Face, ...] = ()  # of a video or photograph, scored
    warning: str = ""  # what weakens the verdict
    note: str = ""  # how the file was read
    stamp: str = ""  # size and time of the file: another file of its name has another

    @property
    def looks_like(self) -> str:
        """Kind of forgery that most of the lower faces look like; "" unless experts called it a deepfake."""
        found = Counter(face.looks_like for face in self.faces if face.score <= self.score)
        return found.most_common(1)[0][0] if found and self.verdict == "deepfake" else ""

    @property
    def remarks(self) -> str:
        likeness = f"looks like {self.looks_like}" if self.looks_like else ""
        return ", ".join(filter(None, (likeness, self.warning, self.note)))


def score_images(items: Iterable[Item], weights: Weights, align: bool | None) -> Iterator[Result]:
    """Yield the Result of each image, in order: see `choose_kind`. Files are decoded in threads meanwhile."""
    predict = load_predictor(weights)

    def load(item: Item) -> tuple[Result, np.ndarray | None]:
        try:
            image, zoom = pipeline.read_crop(item.path)
            kind, warning = choose_kind(item, image, zoom, weights, align)
            seen = pipeline.view_face(image, weights.view, zoom) if kind == "image" else image
            return Result(item._replace(kind=kind), None, "", warning=warning), seen
        except (OSError, ValueError, MemoryError) as error:
            return Result(item, None, "error", pipeline.describe_error(error)), None

    loaded = pipeline.map_ahead(load, items, 2 * BATCH_SIZE)
    while batch := list(itertools.islice(loaded, BATCH_SIZE)):
        crops = [seen for result, seen in batch if result.item.kind == "image" and seen is not None]
        scores = iter(predict(np.stack(crops))[:, 0].tolist() if crops else ())
        for result, seen in batch:
            if seen is None:
                yield result
            elif result.item.kind == "photo":
                yield score_photo(result.item, seen, predict, weights)
            elif np.isfinite(score := next(scores)):
                yield judge(result._replace(score=score), weights.rule)
            else:
                yield Result(result.item, None, "error", f"{UNUSABLE} {score}")


def choose_kind(
    item: Item, image: np.ndarray, zoom: float | None, weights: Weights, align: bool | None
) -> tuple[str, str]:
    """Return ("image", a face crop, or "photo"; what weakens a verdict on a crop) of a picture.

    A file with the comment of extract_faces.py, which says its `zoom`, is a crop. Another is a photograph if
    its sides differ by more than a fifth, or if it has more than 400 pixels and its largest face is narrower
    than half of it. `align` decides for all.
    """
    height, width = image.shape[:2]
    square = max(width, height) <= 1.2 * min(width, height)
    face = 1.0  # how wide the largest face is, as a share of the picture
    if align is None and square and not zoom and max(width, height) > LARGEST_CROP:
        face = measure_largest_face(image)
    if align or (align is None and not zoom and (not square or 0 < face < 0.5)):
        return "photo", ""
    if not square:
        return "image", NOT_SQUARE
    named = pipeline.EXTRACTED_NAME.fullmatch(item.path.stem)
    if named and not zoom and weights.view.zoom < pipeline.CROP_ZOOM:
        return "image", LOST_NOTE
    if not face:
        return "image", NO_FACE
    pose, colors = Pose(0, 0, width / (zoom or weights.view.zoom), 0), pipeline.measure_colors(image)
    doubts = list_doubts(Face(0, 0.0, (), pose, 0, math.inf, None, None, *colors), weights.rule)
    unlike = "unlike the faces that the weights were tested on"
    return "image", f"{' and '.join(doubts)}, {unlike}" if doubts else ""


def measure_largest_face(image: np.ndarray) -> float:
    """Return how wide the largest face in a picture is, as a share of its longer side; 0.0 without a face."""
    height, width = (round(side * SEARCHED / max(image.shape)) for side in image.shape[:2])
    picture = np.asarray(Image.fromarray(image).resize((width, height)))
    boxes = pipeline.detect_faces(picture) or pipeline.detect_faces(picture, upsample=1)
    return max((right - left for left, _, right, _ in boxes), default=0) / SEARCHED


def score_photo(item: Item, image: np.ndarray, predict: Predict, weights: Weights) -> Result:
    """Return the Result of a photograph, uint8 RGB: all its faces are scored."""
    try:
        _, faces = score_faces([(Frame(0, 0, image), pipeline.find_faces_in_photo(image))], predict, weights)
        return judge(Result(item, None, "", frames=1, faces=faces), weights.rule)
    except (OSError, ValueError, MemoryError) as error:
        return Result(item, None, "error", pipeline.describe_error(error))


def score_video(
    item: Item, weights: Weights, options: FaceOptions, threads: int = 0, progress: bool = False
) -> Result:
    """Return the Result of a video, from the faces that extract_faces.py would write, errors included."""
    try:
        timeline = pipeline.read_timeline(item.path)
        frames = pipeline.read_frames(item.path, *options.sampling, threads, timeline)
        found = pipeline.find_faces(frames, options)
        found = pipeline.show_progress(found, options.frames, "frame") if progress else found
        sampled, faces = score_faces(found, load_predictor(weights, threads), weights)
        note = pipeline.describe_reading(timeline, options, sampled)
        return judge(Result(item, None, "", frames=len(sampled), faces=faces, note=note), weights.rule)
    except (OSError, ValueError, MemoryError) as error:
        return Result(item, None, "error", pipeline.describe_error(error))


def score_faces(
    found: Iterable[tuple[Frame, list[Face]]], predict: Predict, weights: Weights
) -> tuple[list[int], tuple[Face, ...]]:
    """Return (indices of the frames, scored Faces) of what `find_faces` yields. ValueError: bad weights."""
    sampled, scored = list[int](), list[Face]()
    view, kinds = weights.view, weights.card.get("experts", ())

    def list_faces() -> Iterator[Face]:
        for frame, faces in found:
            sampled.append(frame.index)
            yield from (face._replace(outside=measure_outside(face, frame, view)) for face in faces)

    waiting = list_faces()
    while batch := list(itertools.islice(waiting, BATCH_SIZE)):
        scores = predict(np.stack([pipeline.view_face(face.crop, view) for face in batch]))
        if not np.isfinite(scores).all():
            raise ValueError(f"{UNUSABLE} {scores.sum()}")
        for face, (score, *experts) in zip(batch, scores.tolist(), strict=True):
            _, likest = min(zip(experts, kinds, strict=False), default=(0, ""))
            scored.append(face._replace(crop=None, score=score, looks_like=likest))  # crops fill the memory
    return sampled, tuple(scored)


def measure_outside(face: Face, frame: Frame, view: View) -> float:
    """Return which share of what the network looks at of a face lies outside its frame, 0 to 1."""
    turn, shift = pipeline.map_square(face.pose, 32, view.zoom * face.pose.size / 32)
    x, y = turn @ (np.mgrid[:32, :32].reshape(2, -1) + 0.5) + shift[:, None]
    height, width = frame.image.shape[:2]
    return float(np.mean((x < 0) | (y < 0) | (x > width) | (y > height)))


def judge(result: Result, rule: Rule) -> Result:
    """Return a Result with the verdict that the rule gives, by its faces or, of a crop, by its score."""
    if result.error:
        return result
    if result.item.kind == "image" and result.score is not None:
        return result._replace(verdict=classify(result.score, "image", rule))
    score, verdict, warning = decide(result.faces, result.item.kind, rule)
    return result._replace(score=score, verdict=verdict, warning=warning)


def read_pictures(
    result: Result, faces: Iterable[Face | None], view: View
) -> dict[Face | None, tuple[np.ndarray, np.ndarray]]:
    """Return {face: (the picture that shows it, what the network saw of it)}, uint8 RGB, of a Result's faces.

    Those that cannot be read again are left out. The face of a face crop is None.
    """
    item, pictures = result.item, dict[Face | None, tuple[np.ndarray, np.ndarray]]()
    with contextlib.suppress(OSError, ValueError, MemoryError):
        if item.kind == "image":
            crop, zoom = pipeline.read_crop(item.path)
            return {None: (crop, pipeline.view_face(crop, view, zoom))}
        timeline = pipeline.read_timeline(item.path) if item.kind == "video" else None
        image: Any = None if timeline else pipeline.read_image(item.path)
        for face in filter(None, faces):
            if timeline:
                near = face.time - 5e-4, face.time + 5e-4
                (frame,) = pipeline.read_frames(item.path, 1, *near, timeline=timeline)
                image = frame.image
            pictures[face] = image, pipeline.view_face(pipeline.align_face(image, face.pose), view)
    return pictures
