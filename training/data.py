"""Faces to train on: listed, checked, decoded once, drawn in a reproducible order, made into batches.

Everything random is drawn with NumPy from (seed, epoch), ahead of the epoch: the same on every
machine, and an epoch begun again after a kill is the same epoch.
"""

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
from training import augmentation

SIDE = pipeline.IMAGE_SIZE
PARTS = ("training", "validation")


class FaceSet(NamedTuple):
    """Decoded faces. The first three are parallel."""

    items: list[Item]
    faces: np.ndarray  # uint8 (N, 256, 256, 3) RGB, mapped from disk
    labels: np.ndarray  # float32 (N, 1): 1 = real, 0 = forged
    remarks: list[str]  # in words


def list_faces(folder: Path) -> tuple[list[Item], list[str]]:
    """Return (Items of the images in `folder`/<df,real>, remarks in words).

    Raises FileNotFoundError without the folder, ValueError, naming what was found, when a class is empty or
    something lies beside the two classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: it must hold df/ and real/")
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    labels = {e.name: pipeline.LABEL_ALIASES.get(e.name.lower()) if e.is_dir() else None for e in entries}
    if stray := [name for name, label in labels.items() if not label]:
        shown = ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else "")
        raise ValueError(f"{folder}: must hold folders named df and real only, not {shown}")
    items, _ = pipeline.find_files([folder])
    videos = [item for item in items if item.kind == "video"]
    faces = [item for item in items if item.kind != "video"]
    for label in pipeline.LABELS:
        if not any(item.label == label for item in faces):
            cure = ": extract_faces.py cuts faces out of videos" if videos else ""
            raise ValueError(f"{folder}: no image of class {label}: {folder / label} must hold some{cure}")
    remarks = [f"folder {name} is taken for {label}" for name, label in labels.items() if name != label]
    if videos:
        lie = f"{pipeline.count(len(videos), 'video')} among the faces, in {videos[0].path.parent}"
        remarks.append(f"{lie}: extract_faces.py cuts faces out of videos")
    return faces, remarks


def find_parts(folder: Path, split_by_video: float) -> tuple[tuple[list[Item], list[Item]], list[str]]:
    """Return ((Items of training, Items of validation), remarks in words)."""
    paths = [folder / part for part in PARTS]
    training, remarks = list_faces(paths[0])
    if paths[1].is_dir():
        if split_by_video:
            raise ValueError(f"--split-by-video: must not be given where there is {paths[1]}")
        validation, more = list_faces(paths[1])
        remarks += more
    elif split_by_video:
        training, validation = split_videos(training, split_by_video)
    else:
        raise FileNotFoundError(f"{paths[1]}: no such folder: make it, or use --split-by-video 0.1")
    if leaks := find_leaks(training, validation):
        names = ", ".join(leaks[:5]) + (", ..." if len(leaks) > 5 else "")
        number = pipeline.count(len(leaks), "video")
        both = f"{number}, or forgeries of them, in both training and validation"
        remarks.append(f"{both}: figures will be too good: {names}")
    return (training, validation), remarks


def name_videos(item: Item) -> list[str]:
    """Return `<data set>/<video>` of an image's video and, of a forgery, of those it was made from.

    An image of no known video is its own: its name. ffpp/face2face_055_147 was made from ffpp/055 and
    ffpp/147.
    """
    if item.video == str(item.path):
        return [item.name]
    parts = item.video.split("_")[1:] if parse_forgery(item)[0] else []
    origins = parts[:2] if len(parts) == 2 else parts[:1]
    return [f"{item.dataset}/{video}".lstrip("/") for video in (item.video, *origins)]


def find_leaks(training: Sequence[Item], validation: Sequence[Item]) -> list[str]:
    """Return the names of videos that have images, or forgeries made of them, in both lists, sorted."""
    of_videos = [[i for i in part if i.video != str(i.path)] for part in (training, validation)]
    known = {name_videos(item)[0] for part in of_videos for item in part}
    first, second = ({name for item in part for name in name_videos(item)} for part in of_videos)
    return sorted(first & second & known)


def find_copies(training: FaceSet, validation: FaceSet) -> list[str]:
    """Return remarks on faces that are, pixel by pixel, in both parts or in both classes."""
    places: dict[bytes, set[str]] = collections.defaultdict(set)
    for part, face_set in zip(PARTS, (training, validation), strict=True):
        for item, face in zip(face_set.items, face_set.faces, strict=True):
            places[hashlib.blake2b(face, digest_size=16).digest()] |= {part, item.label}
    both = {pair: sum(found >= set(pair) for found in places.values()) for pair in (PARTS, pipeline.LABELS)}
    return [f"{pipeline.count(n, 'face')} in both {' and '.join(pair)}" for pair, n in both.items() if n]


def group_videos(items: Iterable[Item]) -> dict[str, str]:
    """Return {video: its group, named after one of them}: a forgery and its originals are one group."""
    sources = {names[0]: names[1:] for names in map(name_videos, items)}
    group = {video: video for video in sources}

    def find(video: str) -> str:
        while group[video] != video:
            video = group[video]
        return video

    for video, origins in sources.items():
        for origin in group.keys() & set(origins):
            first, second = sorted((find(origin), find(video)))
            group[second] = first
    return {video: find(video) for video in group}


def split_videos(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Return (training, validation): whole groups of videos, about `share` of them in the second.

    Of each data set and label the groups whose names have the lowest hashes, at least one: the same ones
    each time. Raises ValueError when a class of either would be empty.
    """
    groups = group_videos(items)
    labels = collections.defaultdict(set)  # of each group
    for item in items:
        labels[item.dataset, groups[name_videos(item)[0]]].add(item.label)
    strata = collections.defaultdict(list)
    for (dataset, group), found in labels.items():
        strata[dataset, tuple(sorted(found))].append(group)
    held_out: set[str] = set()
    for own in strata.values():
        own.sort(key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
        held_out.update(own[: min(max(1, round(share * len(own))), len(own) - 1)])
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        parts[groups[name_videos(item)[0]] in held_out].append(item)
    for label in pipeline.LABELS:
        if not all(any(item.label == label for item in part) for part in parts):
            raise ValueError(f"class {label} has too few videos to split: make a validation folder")
    return parts


def load_faces(items: Sequence[Item], view: pipeline.View, scratch: Path) -> FaceSet:
    """Return the FaceSet of the images that can be read, with remarks on those that cannot.

    Decoded once, as scoring does, into an unnamed file in the folder `scratch`, which may be larger than
    memory. Raises ValueError when no image of a class can be read.
    """

    def load(item: Item) -> tuple[np.ndarray, float | None] | Exception:
        try:
            crop, zoom = pipeline.read_crop(item.path)
            return pipeline.view_face(crop, view, zoom), zoom
        except (OSError, ValueError, MemoryError) as error:
            return error

    kept, remarks, whole = list[Item](), list[str](), 0
    with tempfile.TemporaryFile(dir=scratch) as file:
        found = pipeline.show_progress(pipeline.map_ahead(load, items), len(items), "image")
        for item, loaded in zip(items, found, strict=True):
            if isinstance(loaded, Exception):
                remarks.append(f"skipped {item.path}: {pipeline.describe_error(loaded)}")
            else:
                face, zoom = loaded
                whole += zoom is None
                file.write(face.tobytes())  # not through the map: there, a full disk is a crash
                kept.append(item)
        file.flush()
        faces = np.memmap(file, np.uint8, "r", shape=(len(kept), SIDE, SIDE, 3)) if kept else np.empty(0)
    for label in pipeline.LABELS:
        if not any(item.label == label for item in kept):
            raise ValueError(f"no image of class {label} can be read: {'; '.join(remarks[:3])}")
    if whole and view.zoom < pipeline.CROP_ZOOM:
        remarks.append(f"{whole} of {len(kept)} faces do not say how wide they were cut: taken whole")
    labels = np.array([[item.label == "real"] for item in kept], np.float32)
    return FaceSet(kept, faces, labels, remarks)


def make_batches(
    face_set: FaceSet, order: np.ndarray, seeds: np.ndarray, side: int = SIDE, degrade: float = 0.0
) -> Any:
    """Return a tf.data.Dataset of (faces float32 (n, side, side, 3) in [0, 1], labels float32 (n, 1)).

    Each row of `order` is a batch. Gathering and augmenting run in parallel, ahead of the network. They are
    quick: more threads would take the network's (measured on 2 cores).
    """
    import tensorflow as tf

    batch_size = order.shape[1]
    change_faces = tf.function(augmentation.augment, jit_compile=True)  # one fused loop: five times as fast

    def read(chosen: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = face_set.faces[chosen]
        batch = augmentation.degrade(batch, seeds, degrade) if degrade else batch
        return batch, augmentation.draw_numbers(seeds)

    def load(chosen: Any, seeds: Any) -> tuple[Any, Any]:
        batch, numbers = tf.numpy_function(read, [chosen, seeds], (tf.uint8, tf.float32))
        batch = tf.ensure_shape(batch, (batch_size, SIDE, SIDE, 3))
        numbers = tf.ensure_shape(numbers, (batch_size, augmentation.NUMBERS))
        return change_faces(batch, numbers, side, degrade), tf.gather(face_set.labels, chosen)

    batches = tf.data.Dataset.from_tensor_slices((order, seeds))
    threads = max(1, (os.cpu_count() or 1) // 4)
    return batches.map(load, num_parallel_calls=threads, deterministic=True).prefetch(1)
