"""The report: one page with all that was scored."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, run_script

import pipeline

NAME = "<script>alert(1)</script>&.png"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(films, photo, tmp_path_factory):
    """A report on videos, face crops, one of a hostile name and one that is none."""
    folder = tmp_path_factory.mktemp("page")
    photo.save(folder / NAME.replace("/", "\u2215"))
    (folder / "broken.jpg").write_text("no image")
    command = ["deepfakes_images.py", films, folder, ROOT / "test_images/df", "--everyone"]
    run_script(*command, "--report", "r.html", "--json", "s.json", cwd=folder, status=1)
    return folder / "r.html"


def test_it_holds_everything(page, films):
    text = page.read_text(encoding="utf-8")
    assert "10 files:" in text
    assert text.count("<article") == 10
    for words in ("1 = natural, 0 = deepfake/f2f", "It is not a probability", "looks forged",
                  "no face found", "could not be scored", "of validation", "not an image",
                  "the lowest of 2 people decides", "this program 1.0, Python 3.",
                  "Settings: Meso4_DF_F2F.tflite"):  # fmt: skip
        assert words in text, words
    assert pipeline.compute_sha256(films / "pair.mp4") in text
    assert pipeline.compute_sha256(ROOT / "weights/Meso4_DF_F2F.tflite") in text
    pair = next(part for part in text.split("<article") if "pair.mp4" in part)
    assert (
        len(re.findall(r'<img src="data:image/jpeg', pair)) == 6
    )  # two people; lowest, median, highest; map
    assert len(re.findall(r'<img src="data:image/png', pair)) == 1  # the timeline
    assert re.search(r"<td>2</td>", pair)  # person 2
    assert re.findall(r"<figcaption>(\w+): \d\.\d{3}, at", pair) == ["lowest", "median", "highest"]
    crop = next(part for part in text.split("<article") if "df/biden.png" in part)
    assert re.findall(r"<figcaption>([^.<]*)", crop) == ["map of the face"]  # one face needs no caption
    scores = [float(score) for score in re.findall(r"</span>\s+score (\d\.\d+)", text)]
    assert scores == sorted(scores)


def test_nothing_is_fetched_and_no_name_is_run(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r'(?:src|href)="([^:"]*):', text)) == {"data"}
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert page.stat().st_size < 10 * 100_000  # a tenth of a megabyte a file


def test_it_is_written_from_a_table_too(page, films, tmp_path):
    shutil.copy(page.parent / "s.json", tmp_path / "s.json")
    command = ["deepfakes_images.py", films, page.parent, ROOT / "test_images/df", "--everyone", "--resume"]
    targets = ["--report", tmp_path / "r.html", "--json", tmp_path / "s.json"]
    run_script(*command, *targets, cwd=page.parent, status=1)
    texts = (path.read_text(encoding="utf-8") for path in (page, tmp_path / "r.html"))
    first, again = (re.sub(r"report of [^<]*<", "", text) for text in texts)
    assert len(first) == pytest.approx(len(again), rel=0.01)
    assert re.findall(r"score \d\.\d+", first) == re.findall(r"score \d\.\d+", again)


def test_photographs_and_tensorflow(portrait, tmp_path):
    import imageio.v3 as iio

    iio.imwrite(tmp_path / "a.jpg", portrait)
    command = [ROOT / "deepfakes_images.py", "a.jpg", "--align", "--report", "new/r.html"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert "ai_edge_litert" in done.stderr
    assert not re.search(r"\| +(tensorflow|keras)$", done.stderr, re.MULTILINE)
    text = (tmp_path / "new/r.html").read_text(encoding="utf-8")
    assert "of validation single faces" in text
    assert len(re.findall(r'<img src="data:image/jpeg', text)) == 3  # what is normal, the face, its map


def test_targets(tmp_path):
    done = run_script("deepfakes_images.py", "--report", tmp_path / "r.txt", status=2)
    assert "must end in .html" in done.stderr
    same = tmp_path / "a.html"
    done = run_script("deepfakes_images.py", "--report", same, "--json", same, status=2)
    assert "would overwrite another output" in done.stderr


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium: apt-get install chromium")
def test_a_browser_shows_it(page, tmp_path):
    def look(name, width, *options):
        target = tmp_path / name
        subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options,
             f"--window-size={width},1500", f"--screenshot={target}", page.as_uri()],
            capture_output=True, check=True, timeout=120,
        )  # fmt: skip
        return pipeline.read_image(target)

    wide, narrow = look("wide.png", 1000), look("narrow.png", 500)
    assert min(np.median(wide), np.median(narrow)) > 240
    # at phone width nothing runs over the right edge: it is blank there, but for the frames of boxes
    assert (narrow[:, -12:] == 255).mean() > 0.99
    dark = look("dark.png", 1000, "--blink-settings=preferredColorScheme=0")
    assert np.median(dark) < 40
