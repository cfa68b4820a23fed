"""A video's faces as a folder to train on."""

import contextlib
import csv
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import (
    CROP_ZOOM,
    PERSON_NAME,
    RECORD_NAME,
    SHEET_NAME,
    Face,
    FaceOptions,
    Frame,
    Watch,
    describe_error,
    describe_reading,
    find_faces,
    pick_evenly,
    read_timeline,
    resize_face,
    sample_frames,
    write_crop,
)

TABLE_NAME = "faces.csv"
FACE_NAME = re.compile(r".+-\d{6,}\.png", re.DOTALL)
MEGABYTE = 1 << 20
COLUMNS = ("frame", "time", "person", "left", "top", "right", "bottom", "x", "y", "size", "angle", "sharpness",
           "doubt", "file")  # fmt: skip
THUMBNAIL = 112  # pixels
MOST_SHOWN = 1000  # faces on a contact sheet


class Extraction(NamedTuple):
    """What came of one video."""

    frames: int = 0  # sampled
    faces: int = 0  # written
    empty: int = 0  # frames without a face
    refused: int = 0  # faces that are too small
    people: int = 0
    doubtful: int = 0  # of the faces written
    before: bool = False  # whether it had been done before
    error: str = ""
    note: str = ""  # what a reader should know of how the video was read


def extract_video(
    path: Path,
    folder: Path,
    options: FaceOptions,
    force: bool = False,
    threads: int = 0,
    watch: Watch[tuple[Frame, list[Face]]] = iter,
) -> Extraction:
    """Write a video's faces to a folder of their own; return the Extraction, errors included.

    The folder gets `<video>-<frame index>.png`, in a subfolder per person if `options.everyone`, faces.csv,
    contact_sheet.png and extraction.json. It appears when it is complete. A folder that holds the same video's
    faces by the same settings is left as it is, unless `force`; one that holds anything else is refused.
    `watch` wraps the iterator over frames: a progress bar.
    """
    path, folder = Path(path), Path(os.path.realpath(folder))
    try:
        settings = options._asdict() | {"zoom": CROP_ZOOM}
        record = {"video": path.name, "digest": compute_digest(path), "settings": settings}
        if force:
            check_replaceable(folder)
        elif before := check_extraction(folder, record):
            return before
        timeline = read_timeline(path)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
            part = Path(scratch, folder.name)
            part.mkdir()
            frames = sample_frames(path, options, threads, timeline)
            found, sampled = write_faces(path.stem, part, watch(find_faces(frames, options)), options)
            found = found._replace(note=describe_reading(timeline, options, sampled))
            (part / RECORD_NAME).write_text(json.dumps(record | {"found": found._asdict()}, indent=1) + "\n")
            if force:
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()  # empty: Windows replaces no folder
            os.replace(part, folder)  # fails if another run has written there meanwhile
        return found
    except (OSError, ValueError, MemoryError) as error:
        culprit = getattr(error, "filename", None)  # the video, or something of the output
        named = f"{culprit}: " if culprit and str(culprit) != str(path) else ""
        return Extraction(error=f"{named}{describe_error(error)}")


def compute_digest(path: Path) -> str:
    """Return the SHA-256 of a file's size and of its first and last megabyte: it tells videos apart."""
    size = os.path.getsize(path)
    if not path.is_file():
        raise ValueError("not a regular file")  # opening a pipe would block
    with open(path, "rb") as file:
        digest = hashlib.sha256(f"{size} ".encode() + file.read(MEGABYTE))
        file.seek(max(0, size - MEGABYTE))
        digest.update(file.read(MEGABYTE))
    return digest.hexdigest()


def check_extraction(folder: Path, record: dict[str, Any]) -> Extraction | None:
    """Return the Extraction by these settings that was made of this video before, None if there was none.

    Raises FileExistsError if the folder holds anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        found = json.loads((folder / RECORD_NAME).read_bytes())
        differing = [name for name, value in record.items() if found[name] != value]
        if not differing:
            left = sum(bool(FACE_NAME.fullmatch(entry.name)) for entry in folder.rglob("*"))
            before = Extraction(**found["found"])._replace(before=True)
            # some may have been deleted since, the doubtful ones above all
            return before if left == before.faces else before._replace(faces=left, doubtful=0)
        reason = f"faces of another video or by other settings ({', '.join(differing)})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        reason = "something else"
    raise FileExistsError(f"{folder} holds {reason}: use --force to replace it, or another --output")


def check_replaceable(folder: Path) -> None:
    """Raise FileExistsError unless the folder is empty, missing, or holds an extraction and nothing else."""
    entries = list(folder.rglob("*")) if folder.is_dir() else []
    if entries and folder / RECORD_NAME not in entries:
        raise FileExistsError(f"{folder} holds no {RECORD_NAME}, so it is not ours: name another --output")
    for entry in entries:
        beside = entry.parent == folder and entry.name in (RECORD_NAME, SHEET_NAME, TABLE_NAME)
        own = PERSON_NAME if entry.is_dir() else FACE_NAME
        if not beside and not own.fullmatch(entry.name):
            name = entry.relative_to(folder)
            raise FileExistsError(f"{folder} holds {name}, which does not belong there: use another --output")


def write_faces(
    stem: str, folder: Path, found: Iterable[tuple[Frame, list[Face]]], options: FaceOptions
) -> tuple[Extraction, list[int]]:
    """Write what belongs into an extraction's folder; return (Extraction, indices of the frames)."""
    faces, files, sampled, empty, refused = list[Face](), list[PurePosixPath](), list[int](), 0, 0
    for frame, seen in found:
        sampled.append(frame.index)
        kept = [face for face in seen if face.pose.size >= options.min_size]
        empty += not seen
        refused += len(seen) - len(kept)
        for face in kept:
            name = f"{stem}-{face.frame:06}.png"
            files.append(PurePosixPath(f"person{face.person}" if options.everyone else "", name))
            (folder / files[-1]).parent.mkdir(exist_ok=True)
            write_crop(face.crop, folder / files[-1])
            faces.append(face._replace(crop=None))  # crops would fill the memory
    doubts = flag_outliers(faces, options.everyone)
    write_table(folder / TABLE_NAME, faces, doubts, files)
    if faces:
        doubtful, sound = ([i for i, doubt in enumerate(doubts) if bool(doubt) == bad] for bad in (True, False))
        shown = pick_evenly(doubtful, MOST_SHOWN)
        shown = sorted(shown + pick_evenly(sound, MOST_SHOWN - len(shown)))
        sheet = draw_contact_sheet([(faces[i], doubts[i], folder / files[i]) for i in shown])
        iio.imwrite(folder / SHEET_NAME, np.asarray(sheet))
    people, number = len({face.person for face in faces}), sum(map(bool, doubts))
    return Extraction(len(sampled), len(faces), empty, refused, people, number), sampled


def write_table(
    path: Path, faces: Sequence[Face], doubts: Sequence[str], files: Sequence[PurePosixPath]
) -> None:
    """Write faces.csv: a row per face, with its doubt and the name of its file."""
    with open(path, "w", newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for face, doubt, name in zip(faces, doubts, files, strict=True):
            pose = (round(value, 2) for value in face.pose)
            numbers = (face.frame, round(face.time, 4), face.person, *face.box, *pose)
            writer.writerow((*numbers, round(face.sharpness, 1), doubt, name))


def flag_outliers(faces: Sequence[Face], everyone: bool = False) -> list[str]:
    """Return for each face why it may be unusable, or "".

    The reasons, joined by ", ": "blurred" or "small" compared with the median of the video's faces, at an
    unusual "position", or of another "identity" than most. With `everyone`, each person's faces are compared
    with their own only.
    """
    if not faces:
        return []
    person = np.array([face.person for face in faces])
    sharpness = np.array([face.sharpness for face in faces])
    size = np.array([face.pose.size for face in faces])
    centre = np.array([face.pose[:2] for face in faces])
    tests = np.zeros((len(faces), 4), bool)
    for one in np.unique(person) if everyone else [None]:
        own = np.ones(len(faces), bool) if one is None else person == one
        away = np.linalg.norm(centre[own] - np.median(centre[own], axis=0), axis=1)
        tests[own, 0] = sharpness[own] < 0.4 * np.median(sharpness[own])
        tests[own, 1] = size[own] < 0.6 * np.median(size[own])
        # for someone who walks across the picture no position is unusual
        tests[own, 2] = away > max(np.median(size[own]), 4 * np.median(away))
    if not everyone:
        tests[:, 3] = person != np.bincount(person).argmax()
    names = ("blurred", "small", "position", "identity")
    return [", ".join(itertools.compress(names, row)) for row in tests]


def draw_contact_sheet(shown: Sequence[tuple[Face, str, Path]]) -> Image.Image:
    """Return a Pillow image of (Face, doubt, file of its crop)s as thumbnails, the doubtful ones in red."""
    columns = min(10, len(shown))
    width, height = THUMBNAIL + 8, THUMBNAIL + 30
    sheet = Image.new("RGB", (columns * width, -(-len(shown) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for i, (face, doubt, path) in enumerate(shown):
        x, y = i % columns * width, i // columns * height
        if doubt:
            draw.rectangle((x, y, x + width - 1, y + height - 1), "red")
        with Image.open(path) as crop:
            sheet.paste(Image.fromarray(resize_face(np.asarray(crop), "bilinear", THUMBNAIL)), (x + 4, y + 4))
        ink = "white" if doubt else "black"
        draw.text((x + 4, y + THUMBNAIL + 5), f"{face.frame}  {face.time:.1f} s", ink, font)
        who = f"person {face.person}"
        draw.text((x + 4, y + THUMBNAIL + 17), f"{who}: {doubt}" if doubt else who, ink, font)
    return sheet
