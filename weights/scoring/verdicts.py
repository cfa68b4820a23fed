"""Scores to verdicts: deepfake, uncertain or real.

A face crop is judged by one threshold, as published. Where the card is calibrated, a video or photograph
gets one of three verdicts: the bounds were chosen on videos held back from training, so that few real ones
fall below the lower and few forged ones above the upper (split conformal prediction; see
training/calibrate.py).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter
from statistics import NormalDist

import numpy as np

from pipeline import Face
from weights import Bounds, Rule

MIN_FACES_PER_PERSON = 3  # a person seen in fewer frames of a video does not decide
REAL_ERROR = 0.05  # share of real videos that may be called deepfake
FORGED_ERROR = 0.1  # share of forged videos that may be called real
VERDICTS = ("deepfake", "uncertain", "real", "no face", "error")
UNCLEAR = {"video": "too few clear faces to decide", "photo": "too small or blurred to decide"}


def decide(faces: Sequence[Face], kind: str, rule: Rule) -> tuple[float | None, str, str]:
    """Return (score, verdict, warnings in words) of the scored Faces of a "video" or "photo".

    The score is the mean of the lowest person who counts. A person counts if enough of their faces (at least
    half, and in a video at least three) are as large and as sharp as those the weights were calibrated on. If
    nobody counts, the lowest of all people's means is the score, and the verdict is uncertain.
    """
    people = average_people(faces)
    if not people:
        return None, "no face", ""
    deciding = find_deciding(faces, kind, rule)
    score = min(people[person] for person in deciding or people)
    return score, classify(score, kind, rule, len(deciding)), describe_doubts(faces, deciding, kind, rule)


def classify(score: float, kind: str, rule: Rule, people: int = 1) -> str:
    """Return the verdict on a score: of a crop, or the lowest of so many people's in a "video" or "photo"."""
    bounds = rule.bounds_of(kind)
    if bounds is None:
        return "deepfake" if score < rule.threshold else "real"
    if people and score < lower_bound(bounds, people):
        return "deepfake"
    return "real" if people and score > bounds.upper else "uncertain"


def judge_face(face: Face, kind: str, rule: Rule) -> str:
    """Return the verdict on a single Face: that of a video or photograph with this score."""
    clear = not (rule.bounds_of(kind) and describe_face(face, rule))
    return classify(face.score, kind, rule, int(clear))


def lower_bound(bounds: Bounds, people: int) -> float:
    """Return below which score the lowest of several people is called a deepfake.

    The lowest of several real people scores lower than one alone. So each person gets an equal part of
    REAL_ERROR (Bonferroni). There are too few videos to count that far out: the logits of real scores are
    taken to be normally distributed.
    """
    normal = NormalDist()
    shift = bounds.spread * (normal.inv_cdf(REAL_ERROR / people) - normal.inv_cdf(REAL_ERROR))
    odds = bounds.lower / max(1 - bounds.lower, 1e-9) * math.exp(shift)
    return odds / (1 + odds)


def average_people(faces: Iterable[Face]) -> dict[int, float]:
    """Return {person: mean score} of scored Faces."""
    people = defaultdict(list)
    for face in faces:
        people[face.person].append(face.score)
    return {person: float(np.mean(scores)) for person, scores in sorted(people.items())}


def find_deciding(faces: Sequence[Face], kind: str, rule: Rule) -> list[int]:
    """Return the people who count: see `decide`."""
    least = MIN_FACES_PER_PERSON if kind == "video" else 1
    clear = Counter(face.person for face in faces if not describe_face(face, rule))
    everything = Counter(face.person for face in faces)
    return [p for p, number in sorted(clear.items()) if number >= max(least, everything[p] / 2)]


def list_counting(faces: Sequence[Face], kind: str, rule: Rule) -> list[Face]:
    """Return the Faces of those people who count, the lowest score first; all where nobody counts."""
    deciding = find_deciding(faces, kind, rule)
    counting = [face for face in faces if face.person in deciding] or faces
    return sorted(counting, key=attrgetter("score"))


def list_people(faces: Sequence[Face], kind: str, rule: Rule) -> list[tuple[int, float, int, str, bool]]:
    """Return (person, mean score, number of faces, verdict, whether they count) of each person.

    Where nobody has enough clear faces, all count.
    """
    deciding = find_deciding(faces, kind, rule)
    number = Counter(face.person for face in faces)
    rows = []
    for person, mean in average_people(faces).items():
        counts = person in deciding or not deciding
        verdict = classify(mean, kind, rule, len(deciding) if counts else 0)
        rows.append((person, mean, number[person], verdict, counts))
    return rows


def describe_face(face: Face, rule: Rule) -> str:
    """Return why the weights cannot be trusted on a face: "small", "blurred" or both, or ""."""
    small = face.pose.size < rule.min_size
    blurred = face.sharpness < rule.min_sharpness
    return " and ".join(["small"] * small + ["blurred"] * blurred)


def describe_doubts(faces: Sequence[Face], deciding: Sequence[int], kind: str, rule: Rule) -> str:
    """Return in words what weakens a verdict, or ""."""
    doubts = [describe_face(face, rule) for face in faces]
    counts = {word: sum(word in doubt for doubt in doubts) for word in ("small", "blurred")}
    bounds = rule.bounds_of(kind)
    parts = [] if deciding or not bounds else [UNCLEAR[kind]]
    parts += [f"{number} of {len(faces)} faces {word}" for word, number in counts.items() if number]
    if len(deciding) > 1:
        below = f" (deepfake below {lower_bound(bounds, len(deciding)):.3f})" if bounds else ""
        parts.append(f"the lowest of {len(deciding)} people decides{below}")
    people = len({face.person for face in faces})
    if 0 < len(deciding) < people:
        parts.append(f"{people - len(deciding)} of {people} people not counted: {UNCLEAR[kind]}")
    return ", ".join(parts)
