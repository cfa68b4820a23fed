"""A video's faces as a folder to train on."""

import contextlib
import csv
import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import (
    DOUBTFUL_NAME,
    FACE_NAME,
    PERSON_NAME,
    RECORD_NAME,
    SHEET_NAME,
    TABLE_NAME,
    Face,
    FaceOptions,
    FoundFaces,
    Watch,
    describe_error,
    find_faces,
    resize_face,
    sample_frames,
)

FACE_COLUMNS = ("frame", "time", "person", "left", "top", "right", "bottom", "x", "y", "size", "angle",
                "sharpness", "doubt", "file")  # fmt: skip


class Extraction(NamedTuple):
    """What came of a video's extraction."""

    path: Path  # the video
    folder: Path  # where its faces are
    frames: int = 0  # sampled
    faces: int = 0  # written
    empty: int = 0  # frames without a face
    refused: int = 0  # faces too small or too blurred
    people: int = 0
    doubtful: int = 0  # of the faces written
    before: bool = False  # whether it had been done before
    error: str = ""


def extract_video(
    path: str | Path,
    folder: str | Path,
    search: FaceOptions,
    jpeg: int | None = None,
    drop_doubtful: bool = False,
    force: bool = False,
    threads: int = 0,
    watch: Watch[FoundFaces] = iter,
) -> Extraction:
    """Write a video's faces to a folder of their own; return the Extraction, errors included.

    In the folder: `<video>-<frame index>.png`, or .jpg of quality `jpeg`, of everyone in a subfolder for
    each person; faces.csv; contact_sheet.png; extraction.json. The folder appears when it is
    complete. One that holds the same video's faces by the same settings is left as it is, unless
    `force`; one that holds anything else is refused. With `drop_doubtful` the faces that
    `flag_outliers` names go to a subfolder. `watch` wraps the iterator over frames: a progress bar.
    """
    path, folder = Path(path), Path(os.path.realpath(folder))
    settings = search._asdict() | {"jpeg": jpeg, "drop_doubtful": drop_doubtful}
    part = folder.parent / f".writing-{folder.name}"  # always the same: a kill's leftover is cleared
    try:
        record = {"video": path.name, "bytes": os.path.getsize(path), "settings": settings}
        if force:
            check_replaceable(folder)
        elif found := check_extraction(folder, record):
            return Extraction(path, folder, **found, before=True)
        with _claim(part) as lock:
            found = _write_faces(path, part, search, jpeg, drop_doubtful, threads, watch)
            (part / RECORD_NAME).write_text(json.dumps(record | {"found": found}, indent=1) + "\n")
            if force:
                shutil.rmtree(folder, ignore_errors=True)
            lock.unlink()
            os.replace(part, folder)
        return Extraction(path, folder, **found)
    except (OSError, ValueError, MemoryError) as error:
        return Extraction(path, folder, error=describe_error(error))


@contextlib.contextmanager
def _claim(folder: Path) -> Iterator[Path]:
    """Make a folder, or clear that of a killed run; yield the file that locks out other runs.

    Raises FileExistsError when another run is at it. The folder is gone when there is an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by a kill, too
        except BlockingIOError:
            raise FileExistsError(f"{folder}: another run is writing there") from None
        try:
            for entry in folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry != lock:
                    entry.unlink()
            yield lock
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def check_extraction(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return what an extraction by these settings found in this video before, {} if there was none.

    Raises FileExistsError when the folder holds anything else.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return {}
    try:
        found = json.loads((folder / RECORD_NAME).read_bytes())
        differing = [name for name in ("video", "bytes") if found[name] != record[name]]
        settings = found["settings"]
        differing += [name for name, value in record["settings"].items() if settings[name] != value]
        if not differing:
            return found["found"]
        reason = f"faces of another video or by other settings ({', '.join(differing)})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        reason = "something else"
    raise FileExistsError(f"{folder} holds {reason}: --force to replace it, or another --output")


def check_replaceable(folder: Path) -> None:
    """Raise FileExistsError unless the folder holds an extraction and nothing else, or nothing at all."""
    entries = list(folder.iterdir()) if folder.is_dir() else []
    recorded = any(entry.name == RECORD_NAME for entry in entries)
    for entry in entries:
        if entry.is_dir():
            own = entry.name == DOUBTFUL_NAME or PERSON_NAME.fullmatch(entry.name)
        else:
            own = entry.name in (RECORD_NAME, SHEET_NAME, TABLE_NAME) or FACE_NAME.fullmatch(entry.name)
        if not (recorded and own):
            raise FileExistsError(f"{folder} holds {entry.name}, which is no face: name another --output")


def _write_faces(
    path: Path,
    folder: Path,
    search: FaceOptions,
    jpeg: int | None,
    drop_doubtful: bool,
    threads: int,
    watch: Watch[FoundFaces],
) -> dict[str, Any]:
    """Write what belongs into an extraction's folder; return the counts of its Extraction."""
    faces, frames, empty, refused = [], 0, 0, 0
    for _, found, passed_over in watch(find_faces(sample_frames(path, search, threads), search)):
        for face in found:
            write_face(face, folder / name_face(path, face, search.everyone, jpeg), jpeg)
            # the sheet needs no more, and many large crops would fill the memory
            faces.append(face._replace(crop=resize_face(face.crop, "bilinear", THUMBNAIL)))
        frames += 1
        empty += not found and not passed_over
        refused += passed_over
    doubts = flag_outliers(faces, search.everyone)
    files = [name_face(path, face, search.everyone, jpeg) for face in faces]
    for i, doubt in enumerate(doubts):
        if doubt and drop_doubtful:
            name = files[i].parent / DOUBTFUL_NAME / files[i].name
            os.renames(folder / files[i], folder / name)
            files[i] = name
    with open(folder / TABLE_NAME, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(FACE_COLUMNS)
        for face, doubt, name in zip(faces, doubts, files, strict=True):
            pose = (round(value, 2) for value in face.pose)
            numbers = (face.frame, round(face.time, 4), face.person, *face.box, *pose)
            writer.writerow((*numbers, round(face.sharpness, 1), doubt, name))
    if faces:
        draw_contact_sheet(faces, doubts).save(folder / SHEET_NAME)
    people = len({face.person for face in faces})
    doubtful = sum(map(bool, doubts))
    return {"frames": frames, "faces": len(faces), "empty": empty, "refused": refused,
            "people": people, "doubtful": doubtful}  # fmt: skip


def name_face(path: Path, face: Face, everyone: bool, jpeg: int | None) -> PurePosixPath:
    """Return the relative path of a face's file."""
    name = f"{path.stem}-{face.frame:06}{'.jpg' if jpeg else '.png'}"
    return PurePosixPath(f"person{face.person}", name) if everyone else PurePosixPath(name)  # PERSON_NAME


def write_face(face: Face, path: Path, jpeg: int | None) -> None:
    path.parent.mkdir(exist_ok=True)
    # full colour resolution: the networks look at just such traces
    options: dict[str, Any] = {"quality": jpeg, "subsampling": 0} if jpeg else {}
    Image.fromarray(face.crop).save(path, **options)


def flag_outliers(faces: Sequence[Face], everyone: bool = False) -> list[str]:
    """Return why each of a video's Faces may be no good: "", or some of these, joined by ", ".

    "blurred" or "small" beside the median of the others, at an unusual "position", of another "identity"
    than most. With `everyone` each person's faces are compared with their own only.
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
        # who walks across the picture is nowhere unusual
        tests[own, 2] = away > max(np.median(size[own]), 4 * np.median(away))
    if not everyone:
        tests[:, 3] = person != np.bincount(person).argmax()
    names = ("blurred", "small", "position", "identity")
    return [", ".join(itertools.compress(names, row)) for row in tests]


THUMBNAIL = 112  # pixels


def draw_contact_sheet(faces: Sequence[Face], doubts: Sequence[str]) -> Image.Image:
    """Return a Pillow image of the Faces in order, their crops made THUMBNAIL wide; the doubtful in red."""
    columns = min(10, len(faces))
    rows = -(-len(faces) // columns)
    width, height = THUMBNAIL + 8, THUMBNAIL + 30
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for i, (face, doubt) in enumerate(zip(faces, doubts, strict=True)):
        x, y = i % columns * width, i // columns * height
        if doubt:
            draw.rectangle((x, y, x + width - 1, y + height - 1), "red")
        sheet.paste(Image.fromarray(face.crop), (x + 4, y + 4))
        ink = "white" if doubt else "black"
        draw.text((x + 4, y + THUMBNAIL + 5), f"{face.frame}  {face.time:.1f} s", ink, font)
        draw.text((x + 4, y + THUMBNAIL + 17), doubt or f"person {face.person}", ink, font)
    return sheet
