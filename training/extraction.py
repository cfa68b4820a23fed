"""A video's faces as a folder to train on."""

import contextlib
import csv
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import (
    CROP_ZOOM,
    DOUBTFUL_NAME,
    PERSON_NAME,
    RECORD_NAME,
    SHEET_NAME,
    Face,
    FaceOptions,
    FoundFaces,
    Watch,
    describe_error,
    describe_reading,
    find_faces,
    make_portable,
    pick_evenly,
    read_timeline,
    resize_face,
    sample_frames,
    write_crop,
)
from training.lock import hold_lock

TABLE_NAME = "faces.csv"
FACE_NAME = re.compile(r".+-\d{6,}\.(png|jpg)", re.DOTALL)
MEGABYTE = 1 << 20
FACE_COLUMNS = ("frame", "time", "person", "left", "top", "right", "bottom", "x", "y", "size", "angle",
                "sharpness", "doubt", "file")  # fmt: skip


class Extraction(NamedTuple):
    """What came of one video."""

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
    note: str = ""  # what a reader should know of how the video was read


def extract_video(
    path: str | Path,
    folder: str | Path,
    options: FaceOptions,
    jpeg: int | None = None,
    drop_doubtful: bool = False,
    force: bool = False,
    threads: int = 0,
    watch: Watch[FoundFaces] = iter,
) -> Extraction:
    """Write a video's faces to a folder of their own; return the Extraction, errors included.

    The folder gets `<video>-<frame index>.png` (or .jpg of quality `jpeg`), in a subfolder per person if
    `options.everyone`, faces.csv, contact_sheet.png and extraction.json. It appears when it is complete. A
    folder that holds the same video's faces by the same settings is left as it is, unless `force`; one that
    holds anything else is refused. `drop_doubtful` moves the faces that `flag_outliers` names to a
    subfolder. `watch` wraps the iterator over frames: a progress bar.
    """
    path, folder = Path(path), Path(os.path.realpath(folder))
    settings = options._asdict() | {"zoom": CROP_ZOOM, "jpeg": jpeg, "drop_doubtful": drop_doubtful}
    part = folder.parent / f".writing-{folder.name}"  # always the same, so that a killed run's is cleared
    try:
        if options.only:
            settings["only"] = compute_digest(Path(options.only))
        record = {"video": path.name, "digest": compute_digest(path), "settings": settings}
        if force:
            check_replaceable(folder)
        elif before := check_extraction(path, folder, record):
            return before
        timeline = read_timeline(path)
        frames = sample_frames(path, options, threads, timeline)
        # beside the folder: Windows does not rename a folder in which a file is open
        with hold_lock(part.with_name(f"{part.name}.lock")), _clear(part):
            searched = watch(find_faces(frames, options))
            found, sampled = _write_faces(path, part, searched, options, jpeg, drop_doubtful)
            found["note"] = describe_reading(timeline, options, sampled)
            (part / RECORD_NAME).write_text(json.dumps(record | {"found": found}, indent=1) + "\n")
            if force:
                shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():  # empty: Windows replaces no folder
                folder.rmdir()
            os.replace(part, folder)
        return Extraction(path, folder, **found)
    except (OSError, ValueError, MemoryError) as error:
        culprit = getattr(error, "filename", None)  # the video, or something of the output
        named = f"{culprit}: " if culprit and str(culprit) != str(path) else ""
        return Extraction(path, folder, error=f"{named}{describe_error(error)}")


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


@contextlib.contextmanager
def _clear(folder: Path) -> Iterator[None]:
    """Make a folder, empty of what a killed run left in it; after an error it is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_extraction(path: Path, folder: Path, record: dict[str, Any]) -> Extraction | None:
    """Return the Extraction by these settings that was made of this video before, None if there was none.

    Raises FileExistsError if the folder holds anything else.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    try:
        found = json.loads((folder / RECORD_NAME).read_bytes())
        differing = [name for name in ("video", "digest") if found[name] != record[name]]
        settings = found["settings"]
        differing += [name for name, value in record["settings"].items() if settings.get(name) != value]
        if not differing:
            before = Extraction(path, folder, **found["found"], before=True)
            left = sum(bool(FACE_NAME.fullmatch(entry.name)) for entry in folder.rglob("*"))
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
        top = entry.parent == folder
        if entry.is_dir():
            own = entry.name == DOUBTFUL_NAME or (top and PERSON_NAME.fullmatch(entry.name))
        else:
            beside = top and entry.name in (RECORD_NAME, SHEET_NAME, TABLE_NAME)
            own = beside or FACE_NAME.fullmatch(entry.name)
        if not own:
            name = entry.relative_to(folder)
            raise FileExistsError(f"{folder} holds {name}, which does not belong there: use another --output")


def _write_faces(
    path: Path,
    folder: Path,
    found: Iterable[FoundFaces],
    options: FaceOptions,
    jpeg: int | None,
    drop_doubtful: bool,
) -> tuple[dict[str, Any], list[int]]:
    """Write what belongs into an extraction's folder; return (its counts, indices of the frames)."""
    faces, sampled, empty, refused = [], list[int](), 0, 0
    for frame, kept, skipped in found:
        for face in kept:
            file = folder / name_face(path, face, options.everyone, jpeg)
            file.parent.mkdir(exist_ok=True)
            write_crop(face.crop, file, jpeg)
            faces.append(face._replace(crop=None))  # crops would fill the memory
        sampled.append(frame.index)
        empty += not kept and not skipped
        refused += skipped
    doubts = flag_outliers(faces, options.everyone)
    files = [name_face(path, face, options.everyone, jpeg) for face in faces]
    for i, doubt in enumerate(doubts):
        if doubt and drop_doubtful:
            name = files[i].parent / DOUBTFUL_NAME / files[i].name
            os.renames(folder / files[i], folder / name)
            files[i] = name
    write_table(folder / TABLE_NAME, faces, doubts, files)
    if faces:
        shown = choose_shown(doubts)
        thumbnails = [faces[i]._replace(crop=read_thumbnail(folder / files[i])) for i in shown]
        sheet = draw_contact_sheet(thumbnails, [doubts[i] for i in shown])
        iio.imwrite(folder / SHEET_NAME, np.asarray(sheet))
    people = len({face.person for face in faces})
    doubtful = sum(map(bool, doubts))
    counts = {"frames": len(sampled), "faces": len(faces), "empty": empty, "refused": refused,
              "people": people, "doubtful": doubtful}  # fmt: skip
    return counts, sampled


def write_table(
    path: Path, faces: Sequence[Face], doubts: Sequence[str], files: Sequence[PurePosixPath]
) -> None:
    """Write faces.csv: a row per face, with its doubt and the name of its file."""
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(FACE_COLUMNS)
        for face, doubt, name in zip(faces, doubts, files, strict=True):
            pose = (round(value, 2) for value in face.pose)
            numbers = (face.frame, round(face.time, 4), face.person, *face.box, *pose)
            writer.writerow((*numbers, round(face.sharpness, 1), doubt, name))


def name_face(path: Path, face: Face, everyone: bool, jpeg: int | None) -> PurePosixPath:
    """Return the relative path of a face's file."""
    name = f"{make_portable(path.stem)}-{face.frame:06}{'.jpg' if jpeg else '.png'}"
    return PurePosixPath(f"person{face.person}", name) if everyone else PurePosixPath(name)  # PERSON_NAME


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


THUMBNAIL = 112  # pixels
MOST_SHOWN = 1000  # faces on a contact sheet


def choose_shown(doubts: Sequence[str]) -> list[int]:
    """Return which faces a contact sheet shows: all, or MOST_SHOWN of them, evenly, the doubtful first."""
    chosen: list[int] = []
    for doubtful in (True, False):
        those = [i for i, doubt in enumerate(doubts) if bool(doubt) == doubtful]
        chosen += pick_evenly(those, MOST_SHOWN - len(chosen))
    return sorted(chosen)


def read_thumbnail(path: Path) -> np.ndarray:
    """Return a face that was just written, small: uint8 (112, 112, 3) RGB."""
    with Image.open(path) as image:
        return resize_face(np.asarray(image), "bilinear", THUMBNAIL)


def draw_contact_sheet(faces: Sequence[Face], doubts: Sequence[str]) -> Image.Image:
    """Return a Pillow image of the Faces in order, as thumbnails, the doubtful ones framed in red."""
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
        who = f"person {face.person}"
        draw.text((x + 4, y + THUMBNAIL + 17), f"{who}: {doubt}" if doubt else who, ink, font)
    return sheet
