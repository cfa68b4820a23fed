"""Faces to train on: listed, checked, split, decoded once, made into batches."""

import collections
import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pipeline
from pipeline import Item, parse_forgery

SIDE = pipeline.IMAGE_SIZE
BATCH = 32  # faces that are scored at once
PARTS = ("training", "validation")


class FaceSet(NamedTuple):
    """Decoded faces. The first three are parallel."""

    items: list[Item]
    faces: np.ndarray  # uint8 (N, 256, 256, 3) RGB, mapped from disk
    labels: np.ndarray  # float32 (N, 1): 1 = real, 0 = forged
    remarks: list[str]  # in words


def list_faces(folder: Path) -> list[Item]:
    """Return the Items of the images in `folder`/<df,real>. OSError, ValueError: it is not such a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: it must hold df/ and real/")
    visible = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    if stray := [e.name for e in visible if e.name.lower() not in pipeline.LABEL_ALIASES or e.is_file()]:
        raise ValueError(f"{folder}: must hold folders named df and real only, not {', '.join(stray[:5])}")
    return [item for item in pipeline.find_files([folder])[0] if item.kind != "video"]


def find_parts(folder: Path, split_by_video: float) -> tuple[list[Item], list[Item]]:
    """Return (Items of training, Items of validation)."""
    training, validation = list_faces(folder / "training"), folder / "validation"
    if split_by_video:
        return split_videos(training, split_by_video)
    if not validation.is_dir():
        raise FileNotFoundError(f"{validation}: no such folder: make it, or use --split-by-video 0.1")
    return training, list_faces(validation)


def name_videos(item: Item) -> list[str]:
    """Return `<data set>/<video>` of an image's video and, of a forgery, of those it was made from.

    So ffpp/face2face_055_147 was made from ffpp/055 and ffpp/147.
    """
    if item.video == str(item.path):  # of no known video
        return [item.name]
    parts = item.video.split("_")[1:] if parse_forgery(item)[0] else []
    origins = parts[:2] if len(parts) == 2 else parts[:1]
    return [f"{item.dataset}/{video}".lstrip("/") for video in (item.video, *origins)]


def group_videos(items: Iterable[Item]) -> list[str]:
    """Return the group of each item's video, named after one of them: that of a forgery is its originals'."""
    named = [name_videos(item) for item in items]
    group = {video: video for video, *_ in named}

    def find(video: str) -> str:
        while group[video] != video:
            video = group[video]
        return video

    for video, *origins in named:
        for origin in group.keys() & set(origins):
            first, second = sorted((find(origin), find(video)))
            group[second] = first
    return [find(video) for video, *_ in named]


def find_leaks(training: FaceSet, validation: FaceSet) -> list[str]:
    """Return remarks on videos and faces that make figures too good: in both parts, or in both classes."""
    both = [[item for item in part.items if item.video != str(item.path)] for part in (training, validation)]
    groups = group_videos([*both[0], *both[1]])
    leaks = sorted({*groups[: len(both[0])]} & {*groups[len(both[0]) :]})
    remarks = []
    if leaks:
        shown = f"{len(leaks)} in all: {', '.join(leaks[:5])}"
        remarks = [f"videos, or forgeries of them, are in both training and validation, {shown}"]
    places: dict[bytes, set[str]] = collections.defaultdict(set)  # of each face, by its pixels
    for part, face_set in zip(PARTS, (training, validation), strict=True):
        for item, face in zip(face_set.items, face_set.faces, strict=True):
            places[hashlib.blake2b(face, digest_size=16).digest()] |= {part, item.label}
    for pair in (PARTS, pipeline.LABELS):
        if copies := sum(found >= set(pair) for found in places.values()):
            remarks.append(f"{pipeline.count(copies, 'face')} in both {' and '.join(pair)}")
    return remarks


def split_videos(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Return (training, validation): in the second, of each data set and label, a share of the groups.

    Those whose names have the lowest hashes, at least one. Raises ValueError if a class would be empty.
    """
    groups = group_videos(items)
    labels = collections.defaultdict(set)  # of each group
    for item, group in zip(items, groups, strict=True):
        labels[item.dataset, group].add(item.label)
    strata = collections.defaultdict(list)
    for (dataset, group), found in labels.items():
        strata[dataset, tuple(sorted(found))].append(group)
    held_out: set[str] = set()
    for own in strata.values():
        own.sort(key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
        held_out.update(own[: min(max(1, round(share * len(own))), len(own) - 1)])
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item, group in zip(items, groups, strict=True):
        parts[group in held_out].append(item)
    for label in pipeline.LABELS:
        if not all(any(item.label == label for item in part) for part in parts):
            raise ValueError(f"class {label} has too few videos to split: make a validation folder")
    return parts


def load_faces(items: Sequence[Item], view: pipeline.View, scratch: Path) -> FaceSet:
    """Return the FaceSet of the images that can be read, in an unnamed file in the folder `scratch`.

    It may be larger than memory. Raises ValueError when no image of a class can be read.
    """

    def load(item: Item) -> np.ndarray | Exception:
        try:
            return pipeline.load_face(item.path, view)
        except (OSError, ValueError, MemoryError) as error:
            return error

    kept, remarks = list[Item](), list[str]()
    with tempfile.TemporaryFile(dir=scratch) as file:
        found = pipeline.show_progress(pipeline.map_ahead(load, items), len(items), "image")
        for item, face in zip(items, found, strict=True):
            if isinstance(face, Exception):
                remarks.append(f"skipped {item.path}: {pipeline.describe_error(face)}")
            else:
                file.write(face.tobytes())  # not through the map: there, a full disk is a crash
                kept.append(item)
        file.flush()
        faces = np.memmap(file, np.uint8, "r", shape=(len(kept), SIDE, SIDE, 3)) if kept else np.empty(0)
    for label in pipeline.LABELS:
        if not any(item.label == label for item in kept):
            cure = "; ".join(remarks[:3]) or "extract_faces.py cuts faces out of videos"
            raise ValueError(f"no image of class {label} can be read: {cure}")
    labels = np.array([[item.label == "real"] for item in kept], np.float32)
    return FaceSet(kept, faces, labels, remarks)


def score_faces(classifier: Any, faces: np.ndarray) -> np.ndarray:
    """Return the scores, float32 (N,), of faces, uint8 (N, 256, 256, 3), behind a bar of progress."""
    batches = (faces[start : start + BATCH] for start in range(0, len(faces), BATCH))
    scores = (score for batch in batches for score in classifier.predict(batch)[:, 0])
    return np.fromiter(pipeline.show_progress(scores, len(faces), "face"), np.float32)


def make_batches(face_set: FaceSet, order: np.ndarray, seeds: np.ndarray, degrade: float = 0.0) -> Any:
    """Return a tf.data.Dataset of (faces float32 (n, 256, 256, 3) in [0, 1], labels float32 (n, 1)).

    A batch is a row of `order`. They are made in parallel, ahead of the network.
    """
    import tensorflow as tf

    from training import augmentation

    shape = augmentation.draw_numbers(seeds[0]).shape
    change_faces = tf.function(augmentation.augment, jit_compile=True)  # one fused loop: five times as fast

    def read(chosen: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = face_set.faces[chosen]
        batch = augmentation.degrade(batch, seeds, degrade) if degrade else batch
        return batch, augmentation.draw_numbers(seeds)

    def load(chosen: Any, seeds: Any) -> tuple[Any, Any]:
        batch, numbers = tf.numpy_function(read, [chosen, seeds], (tf.uint8, tf.float32))
        batch = tf.ensure_shape(batch, (len(order[0]), SIDE, SIDE, 3))
        numbers = tf.ensure_shape(numbers, shape)
        return change_faces(batch, numbers, degrade), tf.gather(face_set.labels, chosen)

    batches = tf.data.Dataset.from_tensor_slices((order, seeds))
    threads = max(1, (os.cpu_count() or 1) // 4)  # more would take the network's
    return batches.map(load, num_parallel_calls=threads, deterministic=True).prefetch(1)
