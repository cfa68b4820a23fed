"""The files that deepfakes_images.py is asked to write, checked before it scores anything."""

import os
from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path

from pipeline import find_obstacle

FIGURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")
BEGINNING = 4096  # bytes, in which a file of ours shows what it is
CSV, JSON, PAGE = b"path,score,verdict,label", b'"average_score":', b"<title>MesoNet report"


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
    """Return the path of a picture to write. Any picture of that name is replaced."""
    if not text.lower().endswith(FIGURE_SUFFIXES):
        raise ArgumentTypeError(f"{text} must end in {', '.join(FIGURE_SUFFIXES)}")
    return read_target(text)


def read_target(text: str, mark: bytes = b"", kind: str = "a picture") -> Path:
    """Return the path of a file to write. Raises argparse's error if something else is there.

    `mark` is what files of this kind have near their beginning; an empty file may be replaced too.
    """
    path = Path(text)
    if os.path.isdir(path):
        raise ArgumentTypeError(f"{text} must be a file, not a folder")
    if not os.path.exists(path):
        return path
    if not path.is_file():
        raise ArgumentTypeError(f"{text} must be a regular file")
    try:
        with open(path, "rb") as file:
            beginning = file.read(BEGINNING)
    except OSError as error:
        raise ArgumentTypeError(f"{text}: {error.strerror}") from error
    if beginning and mark not in beginning:
        raise ArgumentTypeError(f"{text} exists and is not {kind}: name another file")
    return path


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
