"""A video's faces as a folder to train on."""

import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import pipeline
from pipeline import RECORD_NAME, SHEET_NAME, Face, FaceOptions, Frame

TABLE_NAME = "faces.csv"
OURS = re.compile(rf"(person\d+/)?[^/]+-\d{{6,}}\.png|{RECORD_NAME}|{SHEET_NAME}|{TABLE_NAME}")
COLUMNS = ("frame", "time", "person", "left", "top", "right", "bottom", "x", "y", "size", "angle",
           "sharpness", "doubt", "file")  # fmt: skip
THUMBNAIL, MOST_SHOWN = 112, 1000  # pixels; faces on a contact sheet


class Extraction(NamedTuple):
    frames: int = 0  # sampled
    faces: int = 0  # written
    empty: int = 0  # frames without a face
    refused: int = 0  # faces that are too small
    people: int = 0
    doubtful: int = 0  # of the faces written
    before: bool = False  # whether it had been done before
    error: str = ""
    note: str = ""  # how the video was read, if the user should know


def extract_video(
    path: Path,
    folder: Path,
    options: FaceOptions,
    force: bool = False,
    threads: int = 0,
    run: str = "",
    watch: Callable[[Iterable], Iterable] = iter,  # a progress bar
) -> Extraction:
    """Write a video's faces to a folder of their own; return the Extraction, errors included.

    The folder gets `<video>-<frame index>.png`, in a subfolder per person if `options.everyone`, faces.csv,
    contact_sheet.png and extraction.json, all at once: until then they lie in `.writing-<run>*` beside. The
    same video's faces by the same settings are left as they are, unless `force`; anything else is refused.
    """
    path, folder = Path(path), Path(os.path.realpath(folder))
    try:
        record = {"video": path.name, "stamp": pipeline.stamp_file(path), **options._asdict()}
        if force:
            check_replaceable(folder)
        elif before := check_extraction(folder, record):
            return before
        timeline = pipeline.read_timeline(path)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".writing-{run}") as scratch:
            part = Path(scratch, folder.name)
            part.mkdir()
            frames = pipeline.read_frames(path, *options.sampling, threads, timeline)
            seen = watch(pipeline.find_faces(frames, options))
            found, sampled = write_faces(path.stem, part, seen, options)
            found = found._replace(note=pipeline.describe_reading(timeline, options, sampled))
            (part / RECORD_NAME).write_text(json.dumps(record | {"found": found._asdict()}, indent=1) + "\n")
            if force:
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()  # empty, or another run has written there meanwhile: an error
            os.replace(part, folder)
        return found
    except (OSError, ValueError, MemoryError) as error:
        culprit = getattr(error, "filename", None)  # the video, or something of the output
        named = f"{culprit}: " if culprit and str(culprit) != str(path) else ""
        return Extraction(error=f"{named}{pipeline.describe_error(error)}")


def check_extraction(folder: Path, record: dict[str, Any]) -> Extraction | None:
    """Return the Extraction that a folder holds, None if it is empty. FileExistsError if it is another."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        found = json.loads((folder / RECORD_NAME).read_bytes())
        differing = [name for name, value in record.items() if found[name] != value]
        if not differing:
            return Extraction(**found["found"])._replace(before=True)
        reason = f"faces of another video or by other settings ({', '.join(differing)})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        reason = "something else"
    raise FileExistsError(f"{folder} holds {reason}: use --force to replace it, or another --output")


def check_replaceable(folder: Path) -> None:
    """Raise FileExistsError unless the folder is empty, missing, or holds an extraction and nothing else."""
    entries = list(folder.rglob("*")) if folder.is_dir() else []
    if entries and folder / RECORD_NAME not in entries:
        raise FileExistsError(f"{folder} holds no {RECORD_NAME}, so it is not ours: name another --output")
    for name in (entry.relative_to(folder).as_posix() for entry in entries if not entry.is_dir()):
        if not OURS.fullmatch(name):
            raise FileExistsError(f"{folder} holds {name}, which does not belong there: use another --output")


def write_faces(
    stem: str, folder: Path, found: Iterable[tuple[Frame, list[Face]]], options: FaceOptions
) -> tuple[Extraction, list[int]]:
    """Write what belongs into an extraction's folder; return (Extraction, indices of the frames)."""
    faces, files, sampled, empty, refused = list[Face](), list[str](), list[int](), 0, 0
    for frame, seen in found:
        sampled.append(frame.index)
        kept = [face for face in seen if face.pose.size >= options.min_size]
        empty += not seen
        refused += len(seen) - len(kept)
        for face in kept:
            files.append(f"person{face.person}/" * options.everyone + f"{stem}-{face.frame:06}.png")
            (folder / files[-1]).parent.mkdir(exist_ok=True)
            pipeline.write_crop(face.crop, folder / files[-1])
            faces.append(face._replace(crop=None))  # crops would fill the memory
    doubts = flag_outliers(faces, options.everyone)
    with open(folder / TABLE_NAME, "w", newline="", encoding="utf-8-sig", errors="backslashreplace") as table:
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        for face, doubt, name in zip(faces, doubts, files, strict=True):
            pose = (*(round(value, 2) for value in face.pose), round(face.sharpness, 1))
            writer.writerow((face.frame, round(face.time, 4), face.person, *face.box, *pose, doubt, name))
    doubtful_first = sorted(range(len(faces)), key=lambda i: not doubts[i])
    if shown := sorted(doubtful_first[:MOST_SHOWN]):
        sheet = draw_contact_sheet([(faces[i], doubts[i], folder / files[i]) for i in shown])
        iio.imwrite(folder / SHEET_NAME, np.asarray(sheet))
    people = len({face.person for face in faces})
    return Extraction(len(sampled), len(faces), empty, refused, people, sum(map(bool, doubts))), sampled


def flag_outliers(faces: Sequence[Face], everyone: bool = False) -> list[str]:
    """Return for each face why it may be unusable, compared with the video's, or each person's, or ""."""
    if not faces:
        return []
    table = np.array([(face.person, face.sharpness, face.pose.size, *face.pose[:2]) for face in faces])
    person, sharpness, size, centre = table[:, 0].astype(int), table[:, 1], table[:, 2], table[:, 3:]
    tests = np.zeros((len(faces), 4), bool)
    group = person if everyone else np.zeros_like(person)  # faces to compare with
    for own in (group == one for one in np.unique(group)):
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
    columns, width, height = min(10, len(shown)), THUMBNAIL + 8, THUMBNAIL + 30
    sheet = Image.new("RGB", (columns * width, -(-len(shown) // columns) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (face, doubt, path) in enumerate(shown):
        x, y = i % columns * width, i // columns * height
        if doubt:
            draw.rectangle((x, y, x + width - 1, y + height - 1), "red")
        with Image.open(path) as crop:
            small = crop.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        sheet.paste(small, (x + 4, y + 4))
        text = f"{face.frame}  {face.time:.1f} s\nperson {face.person}" + f": {doubt}" * bool(doubt)
        draw.text((x + 4, y + THUMBNAIL + 4), text, "white" if doubt else "black", font)
    return sheet
