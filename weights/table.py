"""Scores as CSV and JSON, and back."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline import Face, Item, Pose, describe_error, write_atomically
from weights.scores import VERDICT_INKS, Result

SCORE_COLUMNS = ("path", "score", "verdict", "label", "error", "kind", "frames", "frame", "time", "person",
                 "left", "top", "right", "bottom", "x", "y", "size", "angle", "settings")  # fmt: skip


def list_rows(scores: Iterable[Result]) -> Iterator[dict[str, Any]]:
    """Yield a dict per Score and, after a video's or photograph's, one per face: kind "face"."""
    for s in scores:
        score = None if s.score is None else round(s.score, 6)
        row = {"path": str(s.item.path), "score": score, "verdict": s.verdict, "label": s.item.label,
               "error": s.error, "kind": s.kind}  # fmt: skip
        yield row | ({} if s.kind == "image" else {"frames": s.frames})
        for face in s.faces:
            yield {
                "path": row["path"],
                "score": round(face.score, 6),
                "kind": "face",
                "frame": face.frame,
                "time": round(face.time, 6),
                "person": face.person,
                **dict(zip(("left", "top", "right", "bottom"), face.box, strict=True)),
                **{name: round(value, 2) for name, value in face.pose._asdict().items()},
            }


def write_csv(path: Path, scores: Iterable[Result], settings: str) -> None:
    """Write a row per Score and face (see `list_rows`), each with how it came about, in words."""

    def write(part: Path) -> None:
        with open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, SCORE_COLUMNS)
            writer.writeheader()
            writer.writerows(row | {"settings": settings} for row in list_rows(scores))

    write_atomically(path, write)


def write_json(path: Path, scores: Iterable[Result], summary: dict[str, Any]) -> None:
    """Write the summary, which holds the settings, and the rows of `list_rows`."""
    content = {"summary": summary, "items": list(list_rows(scores))}
    write_atomically(path, lambda part: part.write_text(json.dumps(content, indent=1) + "\n"))


def read_scores(path: Path) -> tuple[dict[str, Result], str]:
    """Return ({path: Result}, the settings) of what `write_csv` or `write_json` wrote.

    Raises ValueError when it is something else.
    """
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            if file.read(1) == "{":
                content = json.loads("{" + file.read())
                rows, settings = content["items"], content["summary"]["settings"]
            else:
                file.seek(0)
                reader = csv.DictReader(file)
                rows = list(reader)
                if tuple(reader.fieldnames or ()) != SCORE_COLUMNS:
                    raise ValueError("other columns")
                settings = rows[0]["settings"] if rows else ""
                if any(row["settings"] != settings for row in rows):
                    raise ValueError("rows of several settings, or cut off")
        scores: dict[str, Result] = {}
        for row in rows:
            name = str(row["path"])
            if row["kind"] == "face":
                scores[name] = scores[name]._replace(faces=(*scores[name].faces, _read_face(row)))
            elif row["kind"] in ("image", "video", "photo") and row["verdict"] in VERDICT_INKS:
                score = None if row["score"] in (None, "") else _read_number(row["score"], 0, 1)
                image = Item(Path(name), str(row["label"]), "", "")
                frames = int(_read_number(row.get("frames") or 0))
                scores[name] = Result(image, score, row["verdict"], str(row["error"]), row["kind"], frames)
            else:
                raise ValueError(f"kind {row['kind']!r}, verdict {row['verdict']!r}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path}: no table of scores ({describe_error(error)})") from error
    return scores, settings


def _read_face(row: dict[str, Any]) -> Face:
    frame, person = (int(_read_number(row[name], 0)) for name in ("frame", "person"))
    box = tuple(int(_read_number(row[name])) for name in ("left", "top", "right", "bottom"))
    pose = Pose(*(_read_number(row[name]) for name in Pose._fields))
    _read_number(pose.size, 0, 100_000)
    score = _read_number(row["score"], 0, 1)
    return Face(frame, _read_number(row["time"], 0), box, pose, person, score=score)


def _read_number(value: Any, least: float = -1e9, most: float = 1e9) -> float:
    number = float(value)
    if isinstance(value, bool) or not least <= number <= most:
        raise ValueError(f"{value!r}, wanted a number from {least:g} to {most:g}")
    return number
