"""A folder of results: results.csv, faces.csv and results.json, and Results from the last one again."""

import csv
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline import Face, Item, Pose, describe_error, write_atomically
from weights import Rule
from weights.scoring.scores import Result, judge
from weights.scoring.verdicts import judge_face, list_doubts

FILES_TABLE, FACES_TABLE, RESULTS = "results.csv", "faces.csv", "results.json"
PAGE, COPIES = "report.html", "annotated"
OURS = {FILES_TABLE, FACES_TABLE, RESULTS, PAGE, COPIES}
BOX = ("left", "top", "right", "bottom")
MEASURED = ("sharpness", "brightness", "saturation", "outside")  # of a Face
# to how many digits numbers of a face are rounded
DIGITS = {"score": 6, "time": 6, **dict.fromkeys((*Pose._fields, *MEASURED), 4)}
FILE_COLUMNS = ("path", "score", "verdict", "label", "error", "kind", "frames", "faces", "looks_like",
                "warning", "note", "settings")  # fmt: skip
FACE_COLUMNS = ("path", "score", "verdict", "frame", "time", "person", *BOX, *Pose._fields, *MEASURED,
                "looks_like", "warning")  # fmt: skip
SAID = ("error", "warning", "note", "stamp")  # of a Result, in words


def open_folder(folder: Path, settings: str, rule: Rule, force: bool) -> dict[str, Result]:
    """Make a folder of results, or open one to continue; return {path: Result} of what is there.

    With `force` it begins anew. Annotated copies by another rule are deleted. Raises ValueError, with nothing
    changed, if the folder holds anything that is not ours, or Results by other settings; OSError if it cannot
    be written.
    """
    before: dict[str, Result] = {}
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder}: must be a folder")
    folder.mkdir(parents=True, exist_ok=True)
    entries = {name for name in os.listdir(folder) if not name.startswith(".writing-")}  # of a killed run
    copies = (path for path in (folder / COPIES).rglob("*.*") if path.is_file())
    others = sorted(entries - OURS) + sorted(p.name for p in copies if p.suffix not in (".mp4", ".png"))
    if others or (entries and RESULTS not in entries):
        held = ", ".join(others[:3]) or f"no {RESULTS}"
        raise ValueError(f"--output {folder}: holds {held}, so it is not ours: name another folder")
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    elif RESULTS in entries:
        before, summary = read_json(folder / RESULTS, rule)
        if (old := summary["settings"]) != settings:
            cure = "name another folder, or begin anew with --force"
            raise ValueError(f"--output {folder}: was scored with {old}, not {settings}: {cure}")
        if summary.get("rule") != str(rule):
            shutil.rmtree(folder / COPIES, ignore_errors=True)
    return before


def write_tables(folder: Path, results: Sequence[Result], rule: Rule, summary: dict[str, Any]) -> None:
    """Write the tables, first that from which a later run continues. Raises OSError, naming the file."""
    found = [(make_row(r), [make_face_row(face, r, rule) for face in r.faces]) for r in results]
    items = [item for row, own in found for item in (row, *own)]
    files = [row | {"faces": len(own), "settings": summary["settings"]} for row, own in found]
    faces = [row for _, own in found for row in own]
    text = json.dumps({"summary": summary, "items": items}, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / RESULTS, lambda part: part.write_text(text))
    write_atomically(folder / FILES_TABLE, lambda part: write_csv(part, files, FILE_COLUMNS))
    write_atomically(folder / FACES_TABLE, lambda part: write_csv(part, faces, FACE_COLUMNS))


def make_row(r: Result) -> dict[str, Any]:
    """Return what the tables say of a file."""
    score = None if r.score is None else round(r.score, 6)
    row = {"path": str(r.item.path), "score": score, "label": r.item.label, "kind": r.item.kind,
           "dataset": r.item.dataset, "video": r.item.video}  # fmt: skip
    return row | {name: getattr(r, name) for name in ("verdict", "frames", "looks_like", *SAID)}


def make_face_row(face: Face, r: Result, rule: Rule) -> dict[str, Any]:
    """Return what the tables say of a face of a video or photograph, of kind "face"."""
    known = face._asdict() | face.pose._asdict() | dict(zip(BOX, face.box, strict=True))
    known |= {name: round(known[name], digits) for name, digits in DIGITS.items()}
    known |= {"path": str(r.item.path), "kind": "face", "verdict": judge_face(face, r.item.kind, rule)}
    known["warning"] = ", ".join(list_doubts(face, rule))
    return {name: known[name] for name in ("kind", *FACE_COLUMNS)}


def write_csv(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write a table that spreadsheets and pandas read: with BOM, bytes that are not UTF-8 as \\udcXX."""
    with open(path, "w", newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for row in rows:  # a spreadsheet would run a path that begins like a formula
            harmless = f"./{row['path']}" if row["path"][0] in "=+-@\t\r" else row["path"]
            writer.writerow(row | {"path": harmless})


def read_json(path: Path, rule: Rule) -> tuple[dict[str, Result], dict[str, Any]]:
    """Return ({path: Result}, summary) that `write_tables` wrote, judged by the rule. Raises ValueError."""
    try:
        content = json.loads(path.read_bytes())
        results: dict[str, Result] = {}
        for row in content["items"]:
            name = str(row["path"])
            if row["kind"] == "face":
                results[name] = results[name]._replace(faces=(*results[name].faces, read_face(row)))
            else:
                results[name] = read_result(row)
        str(content["summary"]["settings"])
        return {name: judge(result, rule) for name, result in results.items()}, content["summary"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else describe_error(error)
        what = f"damaged, or not written by this program ({reason})"
        raise ValueError(f"{path}: {what}: --force begins anew") from error


def read_result(row: dict[str, Any]) -> Result:
    score = None if row["score"] is None else float(row["score"])
    if row["kind"] not in ("image", "video", "photo") or not 0 <= (score or 0) <= 1:
        raise ValueError(f"{row['path']}: kind {row['kind']!r}, score {score}")
    label, dataset, video = (str(row[name]) for name in ("label", "dataset", "video"))
    item = Item(Path(row["path"]), "", label, dataset, video, row["kind"])
    said: dict[str, Any] = {name: str(row[name]) for name in SAID}
    return Result(item, score, "error", frames=int(row["frames"]), **said)


def read_face(row: dict[str, Any]) -> Face:
    frame, person, *box = (int(row[name]) for name in ("frame", "person", *BOX))
    numbers: dict[str, Any] = {name: float(row[name]) for name in DIGITS}
    finite = all(abs(number) <= 1e9 for number in (*box, *numbers.values()))
    pose = Pose(*(numbers.pop(name) for name in Pose._fields))
    if not (finite and 0 <= numbers["score"] <= 1 and 0 < pose.size <= 2 * max(1, *box)):
        raise ValueError(f"{row['path']}: impossible numbers of a face")  # it would be cut out to be shown
    return Face(frame, box=tuple(box), pose=pose, person=person, looks_like=str(row["looks_like"]), **numbers)
