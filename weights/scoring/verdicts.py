"""Scores to verdicts: deepfake, uncertain or real.

A face crop is judged by one threshold, as published. Where the card is calibrated, a video or photograph is
judged by two bounds, between which it is uncertain (split conformal prediction; see training/calibration.py).
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from pipeline import Face
from weights import Bounds, Rule

MIN_FACES_PER_PERSON = 3  # a person seen in fewer frames of a video does not decide
REAL_ERROR = 0.05  # share of real videos that may be called deepfake
FORGED_ERROR = 0.1  # share of forged videos that may be called real
UNCLEAR = {"video": "too few clear faces to decide", "photo": "no clear face to decide by"}
DOUBTS: dict[str, Callable[[Face, Rule], bool]] = {  # why a face does not count: training had none like it
    "small": lambda face, rule: face.pose.size < rule.min_size,
    "blurred": lambda face, rule: face.sharpness < rule.min_sharpness,
    "dark": lambda face, _: face.brightness < 35,  # 53 of 18,916 faces of the training sets are darker
    "black and white": lambda face, _: face.saturation < 0.06,  # none of them has less
    "cut off by the edge": lambda face, _: face.outside > 0.1,  # beyond the frame, the picture is mirrored
}


class Person(NamedTuple):
    """What was found of one person."""

    number: int
    score: float  # mean of the faces' scores
    faces: list[Face]
    verdict: str
    counts: bool  # see `decide`

    @property
    def lowest(self) -> Face:
        return min(self.faces, key=attrgetter("score"))


def decide(faces: Sequence[Face], kind: str, rule: Rule) -> tuple[float | None, str, str]:
    """Return (score, verdict, warnings in words) of the scored Faces of a "video" or "photo".

    The score is the mean of the lowest person who counts. A person counts if enough of their faces (at least
    half, and in a video at least three) are free of DOUBTS. If nobody counts, the lowest of all people's
    means is the score, and the verdict is uncertain.
    """
    people = list_people(faces, kind, rule)
    if not people:
        return None, "no face", ""
    counting, bounds = [person for person in people if person.counts], rule.bounds_of(kind)
    score = min(person.score for person in counting or people)
    verdict = classify(score, kind, rule, len(counting))
    found = Counter(word for face in faces for word in list_doubts(face, rule))
    parts = [] if counting or not bounds else [UNCLEAR[kind]]
    if kind == "video" and verdict != "deepfake" and (times := describe_times(faces, rule)):
        parts.append(f"looks forged {times}")
    parts += [f"{found[word]} of {len(faces)} faces {word}" for word in DOUBTS if found[word]]
    if len(counting) > 1:
        below = f" (deepfake below {lower_bound(bounds, len(counting)):.3f})" if bounds else ""
        parts.append(f"the lowest of {len(counting)} people decides{below}")
    if 0 < len(counting) < len(people):
        parts.append(f"{len(people) - len(counting)} of {len(people)} people not counted: {UNCLEAR[kind]}")
    return score, verdict, ", ".join(parts)


def classify(score: float, kind: str, rule: Rule, people: int = 1) -> str:
    """Return the verdict on a score: of a crop, or the lowest of `people` scores in a "video" or "photo"."""
    bounds = rule.bounds_of(kind)
    if bounds is None:
        return "deepfake" if score < rule.threshold else "real"
    if people and score < lower_bound(bounds, people):
        return "deepfake"
    return "real" if people and score > bounds.upper else "uncertain"


def describe_times(faces: Sequence[Face], rule: Rule) -> str:
    """Return when clear faces look forged in three consecutive frames or more: `from 1.0 to 2.0 s`; or ""."""
    clear = [face for face in faces if not list_doubts(face, rule)]
    lowest = {face.time: face.score for face in sorted(clear, key=lambda face: (face.time, -face.score))}
    grouped = itertools.groupby(lowest, lambda time: classify(lowest[time], "video", rule))
    runs = [list(times) for verdict, times in grouped if verdict == "deepfake"]
    return ", ".join(
        f"from {run[0]:.1f} to {run[-1]:.1f} s" for run in runs if len(run) >= MIN_FACES_PER_PERSON
    )


def judge_face(face: Face, kind: str, rule: Rule) -> str:
    """Return the verdict on a single Face: that of a video or photograph with this score."""
    return classify(face.score, kind, rule, 0 if list_doubts(face, rule) else 1)


def lower_bound(bounds: Bounds, people: int) -> float:
    """Return below which score the lowest of several people is called a deepfake.

    Each person gets an equal part of REAL_ERROR (Bonferroni). There are too few videos to count that far
    out: the logits of real scores are taken to be normally distributed.
    """
    normal = NormalDist()
    shift = bounds.spread * (normal.inv_cdf(REAL_ERROR / people) - normal.inv_cdf(REAL_ERROR))
    odds = bounds.lower / max(1 - bounds.lower, 1e-9) * math.exp(shift)
    return odds / (1 + odds)


def list_people(faces: Sequence[Face], kind: str, rule: Rule) -> list[Person]:
    """Return the people whose scored Faces these are."""
    least = MIN_FACES_PER_PERSON if kind == "video" else 1
    every = Counter(face.person for face in faces)
    clear = Counter(face.person for face in faces if not list_doubts(face, rule))
    counts = {number: clear[number] >= max(least, every[number] / 2) for number in every}
    people = []
    for number in sorted(every):
        found = [face for face in faces if face.person == number]
        score = float(np.mean([face.score for face in found]))
        verdict = classify(score, kind, rule, sum(counts.values()) if counts[number] else 0)
        people.append(Person(number, score, found, verdict, counts[number]))
    return people


def list_doubts(face: Face, rule: Rule) -> list[str]:
    """Return why the weights cannot be trusted on a face: keys of DOUBTS."""
    return [word for word, test in DOUBTS.items() if test(face, rule)]
