"""Results as CSV and JSON, and resuming from them."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, run_script
from PIL import Image

import pipeline
from weights import Rule, find_weights
from weights.scoring.results import read_json, write_json
from weights.scoring.scores import Result


def test_csv_and_json_hold_everything(tmp_path, photo):
    for label in ("real", "df"):
        (tmp_path / "set" / label).mkdir(parents=True)
        photo.save(tmp_path / "set" / label / 'a, "b"\n c.png')
    (tmp_path / "set" / "broken.jpg").write_text("text")
    outputs = [f"--{kind}={tmp_path / kind}" for kind in ("csv", "json")] + [
        f"--plot={tmp_path / 'plot.png'}"
    ]
    done = run_script("deepfakes_images.py", "set", *outputs, "--threshold", "0", cwd=tmp_path, status=1)
    content = json.loads((tmp_path / "json").read_text())
    with (tmp_path / "csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["path", "score", "verdict", "label", "error", "kind"]
    # the further columns are of videos
    rows = [dict(list(row.items())[:6]) for row in rows]
    assert [list(item) for item in content["items"]] == [[*row, "warning", "note"] for row in rows]
    items = [{name: item[name] for name in rows[0]} for item in content["items"]]
    for row, item in zip(rows, items, strict=True):
        assert row["score"] == ("" if item["score"] is None else str(item["score"]))
        assert {k: v for k, v in row.items() if k != "score"} == {
            k: v for k, v in item.items() if k != "score"
        }
    broken, forged, real = rows
    assert broken == {"path": "set/broken.jpg", "score": "", "verdict": "error", "label": "",
                      "error": "not an image", "kind": "image"}  # fmt: skip
    assert (forged["path"], forged["label"]) == ('set/df/a, "b"\n c.png', "df")
    assert (real["verdict"], real["label"]) == ("real", "real")  # no score is below 0
    summary = content["summary"]
    assert (summary["files"], summary["scored"], summary["skipped"]) == (3, 2, 1)
    assert summary["images"]["accuracy"]["image"]["balanced_accuracy"] == 0.5
    assert set(summary["images"]["folders"]) == {"set", "set/df", "set/real"}
    assert Image.open(tmp_path / "plot.png").size[0] > 400
    assert r'set/df/a, "b"\n c.png' in done.stdout
    assert "Skipped: 1 of 3 images" in done.stdout
    assert "skipped set/broken.jpg: not an image" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["csv", "json", "plot.png", "set"]


def test_resume_scores_a_replaced_file_anew_and_loses_no_row(tmp_path):
    shutil.copy(ROOT / "test_images/df/hopper.png", tmp_path / "a.png")
    command = ["deepfakes_images.py", "a.png", "--json", "s.json", "--resume"]
    assert "0.0002  deepfake" in run_script(*command, cwd=tmp_path).stdout
    shutil.copy(ROOT / "test_images/real/hopper.png", tmp_path / "b.png")
    os.utime(tmp_path / "b.png", (1_000_000_000, 1_000_000_000))  # an older file
    os.replace(tmp_path / "b.png", tmp_path / "a.png")
    assert "0.9679  real" in run_script(*command, cwd=tmp_path).stdout
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    command[1] = "c.png"
    done = run_script(*command, cwd=tmp_path, status=2)
    assert "s.json also holds results of 1 file not given this time, a.png for one: give them" in done.stderr
    command[1] = str(tmp_path / "a.png")  # another name of the same file
    run_script(*command, cwd=tmp_path)


def test_resume_takes_the_table_that_is_there(tmp_path):
    shutil.copy(ROOT / "test_images/real/obama.png", tmp_path / "a.png")
    command = ["deepfakes_images.py", tmp_path / "a.png", "--json", tmp_path / "s.json"]
    command += ["--weights", "Meso4_DF"]
    run_script(*command)
    text = (tmp_path / "s.json").read_text()
    (tmp_path / "s.json").write_text(re.sub(r'"score": 0\.9\d+,', '"score": 0.77,', text))
    done = run_script(*command, "--csv", tmp_path / "s.csv", "--resume")
    assert "0.7700  real" in done.stdout  # as the table had it
    # scores do not depend on the threshold, verdicts do
    assert "0.7700  deepfake" in run_script(*command, "--resume", "--threshold", "0.8").stdout
    shutil.copy(ROOT / "weights/Meso4_F2F.tflite", tmp_path / "Meso4_DF.tflite")
    card = json.loads((ROOT / "weights/Meso4_F2F.json").read_text())
    card["sha256"] = {"Meso4_DF.tflite": card["sha256"]["Meso4_F2F.tflite"]}
    card["threshold"] = find_weights("Meso4_DF").rule.threshold
    (tmp_path / "Meso4_DF.json").write_text(json.dumps(card))
    done = run_script(*command, "--resume", "--weights", tmp_path / "Meso4_DF.tflite", status=2)
    assert "was scored with Meso4_DF.tflite" in done.stderr  # of the same name, but others


SCORE = "the score"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((SCORE, "NaN"), "nan must be a number from 0 to 1"),
        ((SCORE, "7"), "7 must be a number from 0 to 1"),
        ((SCORE, "1e999"), "inf must be a number"),
        ((SCORE, '"0.5"'), "'0.5' must be a number"),
        (('"verdict": "real",\n   "label"', '"verdict": "banana",\n   "label"'), "verdict 'banana'"),
        (('"kind": "image"', '"kind": "face"'), r"a face of x\.png comes before x\.png itself"),
        (('"verdict": "real",\n   "label"', '"verdict": "no face",\n   "label"'), "verdict 'no face'"),
        (('"kind": "image"', '"kind": "video"'), "a score must come with faces"),
        (('"kind": "image"', '"kind": ""'), "kind ''"),
        (("bilinear", "nearest"), "was scored with"),
        (("zoom 0.936", "zoom 0.9"), "was scored with"),
        (('"path"', '"points"'), "not a table of scores"),
    ],
)
def test_edited_tables_are_not_resumed(tmp_path, photo, change, reason):
    photo.save(tmp_path / "x.png")
    run_script("deepfakes_images.py", "x.png", "--json", "s.json", cwd=tmp_path)
    text = (tmp_path / "s.json").read_text()
    if change[0] == SCORE:
        change = (re.search(r'"score": ([\d.]+)', text)[1], change[1])
    assert change[0] in text
    (tmp_path / "s.json").write_text(text.replace(*change))
    done = run_script("deepfakes_images.py", "x.png", "--json", "s.json", "--resume", cwd=tmp_path, status=2)
    assert re.search(reason, done.stderr)
    assert (tmp_path / "s.json").read_text() == text.replace(*change)


def test_tables_cut_off_or_of_another_kind_are_not_resumed(tmp_path):
    scores = [Result(pipeline.Item(Path(f"{i}.png"), "", "", ""), 0.5, "real", "") for i in (1, 2)]
    write_json(tmp_path / "s.json", scores, Rule(), {"settings": "the settings"})
    whole = (tmp_path / "s.json").read_text()
    for text in ("", "\0" * 100, whole[:-10], "a,b\n1,2\n", "{", '{"items": 3, "summary": {"settings": ""}}'):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(ValueError, match=r"s\.json: not a table of scores"):
            read_json(tmp_path / "s.json")
    item = {"path": "a", "kind": "image", "verdict": "real", "label": "", "error": "", "score": 10**400}
    changes = (
        {},
        {"score": True},
        {"score": "0.5"},
        {"verdict": None},
        {"frames": float("inf")},
        {"frames": -7},
    )
    rows = [[item | {"score": 0.5} | change if change else item] for change in changes]
    rows += [[item | {"score": 0.5}] * 2]  # one path twice
    for items in rows:
        content = {"items": items, "summary": {"settings": ""}}
        (tmp_path / "s.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"s\.json: not a table of scores"):
            read_json(tmp_path / "s.json")


def test_a_threshold_of_ones_own_decides_alone(films, tmp_path):
    """The bounds of the card, and what it says of errors, hold for its own thresholds only."""
    command = ["deepfakes_images.py", films / "df/forged.mp4", "--json", tmp_path / "s.json"]
    first = run_script(*command).stdout
    assert "of validation videos" in first
    assert "Verdicts, with a margin for doubt: 1 deepfake\n" in first
    done = run_script(*command, "--resume", "--threshold", "0.999")
    assert "of validation videos" not in done.stdout
    assert "with a margin for doubt" not in done.stdout
    assert "Classified as deepfake/f2f: 100.0 % (1 of 1 videos)" in done.stdout


def test_resuming_several_weights_with_a_bad_file_and_a_changed_one(tmp_path, photo):
    photo.save(tmp_path / "b.png")
    (tmp_path / "a.png").write_text("no image")
    command = ["deepfakes_images.py", "a.png", "b.png", "--json", "s.json", "--report", "r.html"]
    weights = ["--weights", "Meso4_DF", "--weights", "Meso4_F2F"]
    first = run_script(*command, *weights, cwd=tmp_path, status=1)
    assert "Meso4_DF  Meso4_F2F  image" in first.stdout  # the bad file comes first
    assert re.search(r"-  error +-  +-  a\.png", first.stdout)
    assert run_script(*command, *weights, "--resume", cwd=tmp_path, status=1).stdout == first.stdout
    shutil.copy(ROOT / "test_images/df/biden.png", tmp_path / "b.png")
    later = (tmp_path / "s.json").stat().st_mtime + 5
    os.utime(tmp_path / "b.png", (later, later))
    again = run_script(*command, *weights, "--resume", cwd=tmp_path, status=1)
    assert re.search(r"0\.00\d\d  deepfake .*b\.png", again.stdout)


def test_weights_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder, name in (("t1", "Meso4_DF"), ("t2", "Meso4_F2F")):
        (tmp_path / folder).mkdir()
        card = json.loads((ROOT / f"weights/{name}.json").read_text())
        card["sha256"] = {"Meso4.tflite": card["sha256"][f"{name}.tflite"]}
        (tmp_path / folder / "Meso4.json").write_text(json.dumps(card))
        shutil.copy(ROOT / f"weights/{name}.tflite", tmp_path / folder / "Meso4.tflite")
    command = ["deepfakes_images.py", ROOT / "test_images/df/biden.png", "--json", tmp_path / "s.json"]
    run_script(*command, "--weights", tmp_path / "t1/Meso4", "--weights", tmp_path / "t2/Meso4")
    (row,) = json.loads((tmp_path / "s.json").read_text())["items"]
    assert {"score t1/Meso4", "score t2/Meso4"} <= set(row)
    assert row["decided_by"] == "t1/Meso4"
    same = run_script(*command, "--weights", "Meso4_DF", "--weights", "Meso4_DF", status=2)
    assert "must have different names" in same.stderr
