"""From image files to scores: finding, reading, resizing, scoring, the report."""

import csv
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run_script
from PIL import Image, ImageOps

import pipeline
from weights import find_weights, load_predictor
from weights.metrics import evaluate, evaluate_results
from weights.scores import Result, score_crops, summarize, verdict_of

GOLDEN_LINE = re.compile(r"^(\d\.\d{4})  (real|deepfake) +(\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def portrait():
    return Image.open(ROOT / "test_images/real/hopper.png")


# --- finding --------------------------------------------------------------------------------------


def test_find_images_sorted_each_once_hidden_and_foreign_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", "b/c/x.WebP", "b/notes.txt", ".git/z.png", "b/._1.png"):
        file = tmp_path / "top" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "top/b/loop").symlink_to(tmp_path / "top")
    (tmp_path / "top/again.png").symlink_to("b/1.png")
    (tmp_path / "raw.data").touch()
    found = [
        str(i.path) for i in pipeline.find_images(["top", "top/b", "raw.data", "top/a.jpeg", "gone.jpg"])
    ]
    assert found == ["top/a.jpeg", "top/again.png", "top/b/2.JPG", "top/b/c/x.WebP", "raw.data", "gone.jpg"]
    os.chdir("top/b")
    inside = ["1.png", "2.JPG", "c/x.WebP", "loop/a.jpeg"]  # the loop leads out of the folder given, once
    assert [str(i.path) for i in pipeline.find_images(["."])] == inside


@pytest.mark.parametrize(
    ("folders", "name", "expected"),
    [
        (("faces", "df"), "1.png", ("df", "", "faces/df/1.png")),
        (("faces", "Real"), "1.png", ("real", "", "faces/Real/1.png")),
        (("real", "fake"), "1.png", ("df", "", "real/fake/1.png")),
        (("faces", "df", "clip7"), "000003.png", ("df", "", "faces/df/clip7")),
        (("df",), "celebdf-id2-id3-5face0.jpg", ("df", "celebdf", "celebdf-id2-id3")),
        (("people",), "1.png", ("", "", "people/1.png")),
        ((), "dfdc-abc-0.jpg", ("", "dfdc", "dfdc-abc")),
        (("real",), "my-clip-000012.png", ("real", "", "my-clip")),
    ],
)
def test_label_source_and_video_from_names(tmp_path, monkeypatch, folders, name, expected):
    monkeypatch.chdir(tmp_path)
    path = pipeline.Path(*folders, name)
    image = pipeline.parse_labels(path, folders)
    assert image == (path, *expected, False)


# --- reading --------------------------------------------------------------------------------------


def test_every_kind_of_image_is_read_as_upright_rgb(tmp_path, portrait):
    rgb = np.asarray(portrait.convert("RGB"))
    grey = portrait.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    for name, image, options in (
        ("rgb.png", portrait, {}),
        ("rgba.png", portrait.convert("RGBA"), {}),
        ("turned.png", portrait.rotate(90, expand=True), {"exif": exif}),
        ("rgb.tif", portrait, {}),
        ("first.gif", portrait, {"save_all": True, "append_images": [grey.convert("RGB")]}),
    ):
        image.save(tmp_path / name, **options)
        read = pipeline.read_image(tmp_path / name)
        assert read.dtype == np.uint8
        tolerance = 40 if name.endswith("gif") else 0  # 256 colours
        assert np.abs(read.astype(int) - rgb).mean() <= tolerance / 10, name
        if not tolerance:
            np.testing.assert_array_equal(read, rgb, name)
    wide = np.asarray(grey, np.uint16) * 257
    palette = portrait.quantize(200)
    palette.info["transparency"] = 3
    for name, image in (
        ("grey.png", grey),
        ("16bit.png", Image.fromarray(wide)),
        ("alpha.png", grey.convert("LA")),
        ("grey.jpg", grey),
    ):
        image.save(tmp_path / name)
        read = pipeline.read_image(tmp_path / name)
        assert read.shape == rgb.shape
        assert np.abs(read - np.asarray(grey, int)[..., None]).mean() <= (5 if name.endswith("jpg") else 0)
    Image.fromarray(np.full((64, 64), 70_000, np.int32)).save(tmp_path / "32bit.tif")
    with pytest.raises(ValueError, match="70000 to 70000: must have 8 or 16 bits"):
        pipeline.read_image(tmp_path / "32bit.tif")
    palette.save(tmp_path / "palette.png")
    assert np.abs(pipeline.read_image(tmp_path / "palette.png") - rgb.astype(int)).mean() < 6
    portrait.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(pipeline.read_image(tmp_path / "cmyk.jpg") - rgb.astype(int)).mean() < 6
    Image.fromarray(np.zeros((20, 20_000, 3), np.uint8)).save(tmp_path / "wide.png")
    assert pipeline.load_face(tmp_path / "wide.png", "nearest").shape == (256, 256, 3)


def make_bad_images(folder, portrait):
    """Write images that cannot be scored; return {name: what the reason must say}."""
    portrait.save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "header-only.jpg").write_bytes(whole[:30])
    (folder / "text.jpg").write_text("not an image at all")
    (folder / "empty.png").touch()
    (folder / "dangling.png").symlink_to(folder / "gone.png")
    os.mkfifo(folder / "pipe.jpg")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    Image.new("F", (64, 64)).save(folder / "float.tif")
    bomb = Image.new("L", (20_000, 20_000))
    bomb.save(folder / "bomb.png")
    return {
        "truncated.jpg": "truncated",
        "header-only.jpg": "image|Truncated",
        "text.jpg": "not an image",
        "empty.png": "empty file",
        "dangling.png": "No such file",
        "pipe.jpg": "not a regular file",
        "pixel.png": "1x1 pixels: must be at least 16",
        "float.tif": "float pixels",
        "bomb.png": "400000000 pixels|20000x20000",
    }


def test_bad_images_raise_one_line(tmp_path, portrait):
    pipeline.detect_faces(np.zeros((64, 64, 3), np.uint8))  # face_recognition would have Pillow accept them
    for name, reason in make_bad_images(tmp_path, portrait).items():
        with pytest.raises((OSError, ValueError), match=reason) as caught:
            pipeline.read_image(tmp_path / name)
        assert "\n" not in pipeline.describe_error(caught.value)


def test_resizing_is_pillows(portrait):
    image = np.asarray(portrait.convert("RGB"))
    nearest = pipeline.resize_face(image, "nearest")
    bilinear = pipeline.resize_face(image, "bilinear")
    np.testing.assert_array_equal(
        nearest, portrait.convert("RGB").resize((256, 256), Image.Resampling.NEAREST)
    )
    np.testing.assert_array_equal(
        bilinear, portrait.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    )
    assert (nearest != bilinear).any()


def test_loading_ahead_is_bounded_and_in_order(tmp_path, portrait):
    for i in range(40):
        portrait.resize((20 + i, 20)).save(tmp_path / f"{i:02}.png")
    images = pipeline.find_images([tmp_path])
    taken = []
    faces = pipeline.load_faces((taken.append(i) or i for i in images), "nearest", ahead=5)
    next(faces)
    assert len(taken) == 6
    assert len(list(faces)) == 39


# --- scoring --------------------------------------------------------------------------------------


def test_scores_do_not_depend_on_batch_size():
    images = pipeline.find_images([ROOT / "test_images"])
    weights = find_weights("Meso4_DF")
    predict = load_predictor(weights)
    by_size = [
        [s.score for s in score_crops(images, predict, weights.resampling, 0.5, size)] for size in (1, 3, 32)
    ]
    np.testing.assert_allclose(by_size[0], by_size[1], atol=1e-6)
    np.testing.assert_allclose(by_size[0], by_size[2], atol=1e-6)


def test_judge_and_summarize():
    image = pipeline.parse_labels(pipeline.Path("a.png"), ())
    scores = [Result(image, score, verdict_of(score, 0.4), "") for score in (0.4, 0.3999, 1.0, None)]
    assert [s.verdict for s in scores] == ["real", "deepfake", "real", "error"]
    found = summarize(scores, 0.4)
    assert found["average_score"] == pytest.approx(0.599967, abs=1e-6)
    assert found["deepfake_percent"] == pytest.approx(100 / 3)
    assert (found["files"], found["scored"], found["skipped"]) == (4, 3, 1)
    nothing = summarize(scores[3:], 0.4)
    assert nothing["average_score"] is None
    assert nothing["verdict"] == "error"


def test_evaluate_known_figures():
    labels = ["df", "df", "df", "df", "real", "real"]
    found = evaluate(labels, [0.1, 0.2, 0.3, 0.9, 0.8, 0.4], 0.5)
    assert found["accuracy_df"] == 0.75
    assert found["accuracy_real"] == 0.5
    assert found["balanced_accuracy"] == 0.625
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["auc"] == pytest.approx(6 / 8)
    assert found["eer"] == pytest.approx(0.25)
    assert "auc" not in evaluate(["df", "df"], [0.1, 0.2], 0.5)


def test_video_level_is_the_mean_of_its_images():
    def score(label, video, value):
        image = pipeline.Item(pipeline.Path("x.png"), label, "", video)
        return Result(image, value, verdict_of(value, 0.5), "")

    scores = [score("df", "a", 0.1), score("df", "a", 0.7), score("real", "a", 0.9), score("", "b", 0.0)]
    levels = evaluate_results(scores, 0.5)
    assert levels["image"]["count"] == 3
    assert levels["image"]["accuracy_df"] == 0.5
    assert levels["video"]["count"] == 2  # a forged and a real video may share a name
    assert levels["video"]["accuracy_df"] == 1.0
    assert evaluate_results(scores[3:], 0.5) == {}


# --- the script -----------------------------------------------------------------------------------


def test_without_arguments_it_scores_test_images():
    done = run_script("deepfakes_images.py")
    assert len(GOLDEN_LINE.findall(done.stdout)) == 8
    assert re.search(r"^ +4 .* test_images/real$", done.stdout, re.MULTILINE)
    assert re.search(r"^Average score: 0\.\d{4}$", done.stdout, re.MULTILINE)
    assert re.search(r"^Classified as deepfake/f2f: [\d.]+ % \(\d of 8 images\)$", done.stdout, re.MULTILINE)
    assert "1 = natural, 0 = deepfake/f2f" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("form", ["h5", "tflite"])
def test_authors_weights_score_their_images_as_published(shared, converted, form):
    weights = shared / "published_weights/Meso4_DF.h5" if form == "h5" else converted / "Meso4_DF.tflite"
    done = run_script("deepfakes_images.py", shared / "published_images", "--weights", weights)
    golden = json.loads((shared / "golden/scores.json").read_text())["scores"]["Meso4_DF"]["nearest"]
    rows = {
        path.partition("published_images/")[2]: score for score, _, path in GOLDEN_LINE.findall(done.stdout)
    }
    assert rows == {path: f"{score:.4f}" for path, score in golden.items()}
    assert "Accuracy per image: all 1.000, df 1.000, real 1.000, balanced 1.000, AUC 1.000" in done.stdout
    assert done.stderr == ""


def test_tflite_never_imports_tensorflow():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['deepfakes_images.py']\n"
        "try: runpy.run_path('deepfakes_images.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'tensorflow', 'keras', 'classifiers', 'face_recognition'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_csv_and_json_hold_everything(tmp_path, portrait):
    for label in ("real", "df"):
        (tmp_path / "set" / label).mkdir(parents=True)
        portrait.save(tmp_path / "set" / label / 'a, "b"\n c.png')
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
    assert [list(item) for item in content["items"]] == [list(row) for row in rows]
    for row, item in zip(rows, content["items"], strict=True):
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


def test_bad_images_in_a_batch_are_reported_and_the_rest_scored(tmp_path, portrait):
    reasons = make_bad_images(tmp_path, portrait)
    portrait.save(tmp_path / "good.png")
    portrait.save(os.fsencode(tmp_path) + b"/not-utf8-\xff.png", "PNG")
    done = run_script("deepfakes_images.py", tmp_path, "--json", tmp_path / "o.json", status=1)
    items = {p["path"].rpartition("/")[2]: p for p in json.loads((tmp_path / "o.json").read_text())["items"]}
    assert set(items) == {*reasons, "good.png", "not-utf8-\udcff.png"}
    for name, reason in reasons.items():
        assert items[name]["verdict"] == "error"
        assert re.search(reason, items[name]["error"])
        assert f"/{name}: " in done.stderr
    assert items["good.png"]["score"] == items["not-utf8-\udcff.png"]["score"]
    assert f"Skipped: {len(reasons)} of {len(items)}" in done.stdout


def test_labels_come_from_the_folder_given_and_below_not_from_above(tmp_path, portrait):
    for clip in ("deepfake/photos", "v/df/clip1", "v/real/clip2"):
        (tmp_path / clip).mkdir(parents=True)
        portrait.save(tmp_path / clip / "1.png")
    done = run_script("deepfakes_images.py", "v/df", "v/real", cwd=tmp_path)
    assert "Accuracy per image: all 0.500, df 0.000, real 1.000" in done.stdout
    for paths in (["deepfake/photos"], ["deepfake/photos/1.png"], [tmp_path / "deepfake/photos"]):
        assert "Accuracy" not in run_script("deepfakes_images.py", *paths, cwd=tmp_path).stdout
    assert "Accuracy" not in run_script("deepfakes_images.py", ".", cwd=tmp_path / "v/df").stdout


def test_a_score_that_is_no_number_is_an_error():
    images = pipeline.find_images([ROOT / "test_images/real"])
    scores = list(score_crops(images, lambda x: np.full(len(x), np.nan), "nearest", 0.5))
    assert {(s.score, s.verdict) for s in scores} == {(None, "error")}
    assert "they gave the score nan" in scores[0].error


def test_outputs_follow_links(tmp_path):
    (tmp_path / "link.csv").symlink_to("target.csv")
    run_script("deepfakes_images.py", "--csv", tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_text().startswith("path,score")


def test_closed_output_is_no_traceback():
    for closed in (">&-", "2>&-"):
        command = f"{sys.executable} deepfakes_images.py {closed}"
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, timeout=60, check=True)
        assert b"Traceback" not in done.stderr


def test_many_images_get_no_row_each(tmp_path, portrait):
    for i in range(51):
        portrait.resize((32, 32)).save(tmp_path / f"{i:02}.png")
    done = run_script("deepfakes_images.py", tmp_path)
    assert not GOLDEN_LINE.search(done.stdout)
    assert re.search(rf"^ +51 .* {tmp_path}$", done.stdout, re.MULTILINE)


def test_nothing_to_score(tmp_path):
    done = run_script("deepfakes_images.py", tmp_path, status=2)
    assert done.stderr == f"deepfakes_images.py: nothing to score: no image or video in {tmp_path}\n"
    run_script("deepfakes_images.py", tmp_path / "gone.jpg", status=2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--threshold", "1.5"], "--threshold: must be from 0 to 1, not 1.5"),
        (["--frames", "0"], "--frames: must be a whole number of at least 1, not 0"),
        (["--min-size", "much"], "--min-size: must be a number, not much"),
        (["--csv", "/proc/no/all.csv"], "/proc/no: No such file or directory"),
        (["--plot", "plot.xyz"], r"plot\.xyz must end in \.png, \.jpg, \.pdf, \.svg"),
        (["--csv", "/dev/null"], "/dev/null must be a regular file"),
        (["--csv", "test_images"], "test_images must be a file, not a folder"),
        (["--csv", "x", "--json", "x"], "must be different files"),
        (["--csv", "x" * 300 + "/y"], "File name too long"),
        (["--resume", "--csv", "x"], "--resume needs --json"),
        (["x" * 300 + ".png"], "nothing to score"),
        (["--weights", "Meso5_DF"], "Meso5_DF: no such weights.*weights/README.md"),
        (["--weights", "README.md"], "README.md"),
    ],
)
def test_wrong_usage(arguments, reason):
    done = run_script("deepfakes_images.py", *arguments, status=2)
    assert re.search(reason, done.stderr)
    assert done.stdout == ""


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} deepfakes_images.py | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert done.stderr == b""


def test_first_scores_come_at_once():
    started = time.monotonic()
    run_script("deepfakes_images.py", "test_images/real/hopper.png")
    assert time.monotonic() - started < 15  # about one second; TensorFlow alone would take four to twenty


# --- other people's images ------------------------------------------------------------------------


def test_odd_metadata_costs_no_pixels(shared, tmp_path, portrait):
    rgb = np.asarray(portrait.convert("RGB"))
    for name in ("png_text_2MB.png", "png_exif_bad.png", "photo.jpe"):
        assert pipeline.read_image(shared / "inputs" / name).shape[2] == 3
    np.testing.assert_array_equal(pipeline.read_image(shared / "inputs/png_exif_bad.png"), rgb)
    icc = np.random.default_rng(0).bytes(3_000_000)
    portrait.save(tmp_path / "icc.png", icc_profile=icc)
    portrait.save(tmp_path / "exif.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 200)
    portrait.convert("RGB").save(
        tmp_path / "exif.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01", quality=95
    )
    for name in ("icc.png", "exif.png"):
        np.testing.assert_array_equal(pipeline.read_image(tmp_path / name), rgb)
    assert np.abs(pipeline.read_image(tmp_path / "exif.jpg").astype(int) - rgb).mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(tmp_path, portrait, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    portrait.crop((0, 0, 200, 120)).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(pipeline.read_image(tmp_path / "x.png"), wanted)


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_the_formats_of_phones_are_read(tmp_path, portrait, suffix):
    if suffix == ".heic":
        pipeline._register_heif()
    portrait.convert("RGB").save(tmp_path / f"x{suffix}", quality=90)
    found = pipeline.read_image(tmp_path / f"x{suffix}")
    assert np.abs(found.astype(int) - np.asarray(portrait.convert("RGB"))).mean() < 5
    assert [item.path.suffix for item in pipeline.find_images([tmp_path])] == [suffix]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["3f2b8c1e-aa11-4c2d-9e3f-1234567890ab.jpg", "9b1c2d3e-bb22-4d3e-8f4a-abcdef012345.jpg"], None),
        (["IMG-20240727-WA0001.jpg", "IMG-20240727-WA0002.jpg", "IMG-20240728-WA0001.jpg"], None),
        (["Screenshot-2024-07-27-101010.png", "Screenshot-2024-07-28-101112.png"], None),
        (["john-smith-portrait.jpg", "john-doe-outdoor.jpg"], None),
        (["mesonet-177-78.jpg", "mesonet-97-98.jpg"], {"mesonet-177", "mesonet-97"}),
        (["celebdf-id9id4-7face0.jpg", "celebdf-id9-8face0.jpg"], {"celebdf-id9id4", "celebdf-id9"}),
        (
            ["dfdcpair-abc-0.jpg", "dfdcpair-abc-xyz.jpg", "dfdcpair-def-0.jpg"],
            {"dfdcpair-abc", "dfdcpair-def"},
        ),
    ],
)
def test_names_are_data_sets_only_where_they_look_like_it(tmp_path, names, found):
    for name in names:
        (tmp_path / name).touch()
    items = pipeline.find_images([tmp_path])
    if found is None:
        assert {(item.dataset, item.video) for item in items} == {("", str(item.path)) for item in items}
    else:
        assert {item.video for item in items} == found
        assert len({item.dataset for item in items}) == 1
