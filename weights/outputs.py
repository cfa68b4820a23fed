"""The files that deepfakes_images.py is asked to write, checked before it scores anything."""

import os
from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path

from pipeline import check_writable

FIGURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")
# how a file begins that may be replaced, white space apart
TABLE, JSON, PAGE = b"path,score", b'{"summary":', b"<!DOCTYPEhtml>"


def read_csv_target(text: str) -> Path:
    """Return the path of a CSV file to write."""
    return read_target(text, TABLE, "a table of scores as --csv writes it")


def read_json_target(text: str) -> Path:
    """Return the path of a JSON file to write."""
    return read_target(text, JSON, "a table of scores as --json writes it")


def read_page_target(text: str) -> Path:
    """Return the path of a report to write."""
    if not text.lower().endswith((".html", ".htm")):
        raise ArgumentTypeError(f"{text} must end in .html")
    return read_target(text, PAGE, "a page")


def read_figure_target(text: str) -> Path:
    """Return the path of a picture to write."""
    if not text.lower().endswith(FIGURE_SUFFIXES):
        raise ArgumentTypeError(f"{text} must end in {', '.join(FIGURE_SUFFIXES)}")
    return read_target(text, b"", "a picture")


def read_target(text: str, start: bytes, kind: str) -> Path:
    """Return the path of a file to write. Raises argparse's error if something of another kind is there.

    `start` is how files of this kind begin, white space apart; `kind` names it.
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
            begins = b"".join(file.read(100).split())
    except OSError as error:
        raise ArgumentTypeError(f"{text}: {error.strerror}") from error
    if begins and not begins.startswith(start):
        raise ArgumentTypeError(f"{text} exists and is not {kind}: name another file")
    return path


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise ValueError if an output would overwrite, or lie below, an input or another output; OSError if a
    folder cannot be written to."""
    taken = {os.path.realpath(path): "an input" for path in inputs}
    folders = {}
    for output in outputs:
        real = os.path.realpath(output)
        if real in taken:
            raise ValueError(f"{output} would overwrite {taken[real]}: name another file or folder")
        if os.path.isdir(real):
            raise ValueError(f"{output} is a folder, and a file is to be written there: name another")
        taken[real] = "another output"
        folders[os.path.dirname(real)] = output
    for folder, output in folders.items():
        if blocked := next(
            (above for above in (folder, *map(str, Path(folder).parents)) if above in taken), ""
        ):
            raise ValueError(f"{output} would lie below {blocked}, {taken[blocked]}: name another folder")
        check_writable(output)
