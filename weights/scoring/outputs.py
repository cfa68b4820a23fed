"""The files that deepfakes_images.py is asked to write, checked before it scores anything, marked as ours."""

import itertools
import os
from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import PngImagePlugin

from pipeline import find_obstacle, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")
BEGINNING = 4096  # bytes, in which a file of ours shows what it is
END = 65536  # bytes, in which videos and PDF files do
CSV, JSON, PAGE = b"path,score,verdict,label", b'"average_score":', b"<title>MesoNet report"
MADE_BY = "made by deepfakes_images.py"  # in pictures and videos of ours


def read_csv_target(text: str) -> Path:
    """Return the path of a CSV file to write."""
    return read_target(text, CSV, "a table of scores as --csv writes it")


def read_json_target(text: str) -> Path:
    """Return the path of a JSON file to write."""
    return read_target(text, JSON, "a table of scores as --json writes it")


def read_page_target(text: str) -> Path:
    """Return the path of a report to write."""
    if not text.lower().endswith((".html", ".htm")):
        raise ArgumentTypeError(f"{text} must end in .html")
    return read_target(text, PAGE, "a report as --report writes it")


def read_figure_target(text: str) -> Path:
    """Return the path of a picture to write."""
    if not text.lower().endswith(FIGURE_SUFFIXES):
        raise ArgumentTypeError(f"{text} must end in {', '.join(FIGURE_SUFFIXES)}")
    return read_target(text, MADE_BY.encode(), "a picture as --plot draws it")


def read_target(text: str, mark: bytes, kind: str) -> Path:
    """Return the path of a file to write. Raises argparse's error if something else is there.

    `mark` is what files of this kind hold, see `is_marked`.
    """
    path = Path(text)
    if os.path.isdir(path):
        raise ArgumentTypeError(f"{text} must be a file, not a folder")
    if not os.path.exists(path):
        return path
    if not path.is_file():
        raise ArgumentTypeError(f"{text} must be a regular file")
    try:
        marked = is_marked(path, mark)
    except OSError as error:
        raise ArgumentTypeError(f"{text}: {error.strerror}") from error
    if not marked:
        raise ArgumentTypeError(f"{text} exists and is not {kind}: name another file")
    return path


def is_marked(path: Path, mark: bytes) -> bool:
    """Return whether a file holds the mark near its beginning or its end, or is empty: it may be replaced."""
    with open(path, "rb") as file:
        beginning = file.read(BEGINNING)
        file.seek(max(0, path.stat().st_size - END))
        return not beginning or mark in beginning or mark in file.read()


def make_png_note() -> PngImagePlugin.PngInfo:
    """Return what marks a PNG as ours."""
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", MADE_BY)
    return note


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a Matplotlib figure, marked as ours. Raises OSError when `path` cannot be written."""
    suffix = path.suffix.lower()
    options: dict[str, Any] = {"metadata": {"Software" if suffix == ".png" else "Creator": MADE_BY}}
    if suffix == ".jpg":
        options = {"pil_kwargs": {"comment": MADE_BY}}
    write_atomically(path, lambda part: figure.savefig(part, dpi=100, **options))


def check_folders(folders: Iterable[Path], searched: Iterable[str | Path]) -> None:
    """Raise ValueError if pictures would go to a folder that is searched: the next run would score them."""
    for folder, top in itertools.product(folders, searched):
        if os.path.isdir(top) and folder.resolve().is_relative_to(Path(top).resolve()):
            raise ValueError(f"{folder}: must not be in {top}, where files to score are searched")


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise ValueError if a file cannot be written, or would harm an input or another output."""
    taken = {os.path.realpath(path): "an input" for path in inputs}
    longest: dict[str, tuple[str, Path]] = {}  # of each folder, the (real path, output) of the longest name
    for output in outputs:
        real = os.path.realpath(output)
        if real in taken:
            raise ValueError(f"{output} would overwrite {taken[real]}: name another file or folder")
        if os.path.isdir(real):
            raise ValueError(f"{output} is a folder, and a file is to be written there: name another")
        if os.path.islink(real):
            raise ValueError(f"{output}: a link to itself")
        picture = output.suffix.lower() in (*FIGURE_SUFFIXES, ".mp4") and os.path.isfile(real)
        if picture and not is_marked(Path(real), MADE_BY.encode()):
            raise ValueError(f"{output} exists and is not ours: name another file or folder")
        taken[real] = "another output"
        folder = os.path.dirname(real)
        if folder not in longest or len(os.fsencode(real)) > len(os.fsencode(longest[folder][0])):
            longest[folder] = real, output
    for real, output in longest.values():  # a trial of every output takes seconds where there are thousands
        for above in map(str, Path(real).parents):
            if above in taken:
                raise ValueError(f"{output} would lie below {above}, {taken[above]}: name another folder")
        if obstacle := find_obstacle(output):
            raise ValueError(f"{output}: {obstacle}")
