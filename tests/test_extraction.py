"""Videos to folders of faces: what is written, what is continued, replaced, refused and left alone."""

import os
import re
import shutil
import signal

import numpy as np
import pytest
from clips import film, open_portrait, write_clip
from conftest import ROOT, read_table, run_script, start, touch, wait_for
from PIL import Image, ImageFilter

import pipeline
from training.extraction import extract_video

SCRIPT = "extract_faces.py"


@pytest.fixture(scope="module")
def clip(portrait, tmp_path_factory):
    """A clip of 20 frames: a head that wanders; frames 5 and 6 are blurred, in frame 9 there is none."""
    frames = [film(portrait, pipeline.Pose(250 + 6 * i, 240, 130 + i, 2 * i)) for i in range(20)]
    for i in (5, 6):
        frames[i] = np.asarray(Image.fromarray(frames[i]).filter(ImageFilter.GaussianBlur(4)))
    frames[9] = np.full_like(frames[9], 128)
    return write_clip(tmp_path_factory.mktemp("clip") / "head.mp4", frames)


def test_faces_of_a_clip(clip, tmp_path):
    done = run_script(SCRIPT, clip, "--output", tmp_path / "faces")
    assert done.stdout == f"{clip}: 19 faces in 20 frames, 1 without a face, 2 doubtful\n"
    assert done.stderr == ""
    rows = read_table(tmp_path / "faces/faces.csv")
    assert [int(row["frame"]) for row in rows] == [i for i in range(20) if i != 9]
    assert {int(row["frame"]): row["doubt"] for row in rows if row["doubt"]} == {5: "blurred", 6: "blurred"}
    for row in rows:
        names = ("frame", "x", "y", "size", "angle", "left", "top", "right", "bottom")
        i, x, y, size, angle, left, top, right, bottom = (float(row[name]) for name in names)
        if not row["doubt"]:
            assert np.hypot(x - 250 - 6 * i, y - 240) < 0.03 * (130 + i)
            assert size == pytest.approx(130 + i, rel=0.05)
            assert angle == pytest.approx(2 * i, abs=3)
        assert float(row["time"]) == pytest.approx(i / 25, abs=1e-3)
        assert left < x < right
        assert top < y < bottom
        crop = pipeline.read_image(tmp_path / "faces" / row["file"])
        assert (row["person"], row["file"]) == ("1", f"head-{i:06.0f}.png")
        assert crop.shape[0] == crop.shape[1] == pytest.approx(1.3 * size, abs=0.52)
        assert pipeline.measure_sharpness(crop) == pytest.approx(float(row["sharpness"]), abs=0.1)
    names = {"contact_sheet.png", "extraction.json", "faces.csv"} | {row["file"] for row in rows}
    assert {path.name for path in (tmp_path / "faces").iterdir()} == names
    sheet = pipeline.read_image(tmp_path / "faces/contact_sheet.png")
    red = (sheet == (255, 0, 0)).all(axis=2)
    cells = red.reshape(2, sheet.shape[0] // 2, 10, sheet.shape[1] // 10)[:, 0, :, 0]
    assert np.flatnonzero(cells).tolist() == [5, 6]
    # what lies beside the faces is no face
    items, passed_over = pipeline.find_files([tmp_path / "faces"])
    assert sorted(item.path.name for item in items) == [row["file"] for row in rows]
    assert not passed_over


def test_a_finished_video_is_recognised(clip, films, tmp_path):
    options = pipeline.FaceOptions(frames=3)
    first = extract_video(clip, tmp_path / "out", options)
    assert (first.frames, first.faces, first.before, first.error) == (3, 3, False, "")
    (tmp_path / "out/head-000000.png").unlink()  # cleaned by hand
    assert extract_video(clip, tmp_path / "out", options) == first._replace(before=True)
    assert not (tmp_path / "out/head-000000.png").exists()
    other = extract_video(clip, tmp_path / "out", options._replace(frames=2))
    cure = "use --force to replace it, or another --output"
    assert other.error == f"{tmp_path}/out holds faces of another video or by other settings (frames): {cure}"
    shutil.copy(films / "pair.mp4", tmp_path / "head.mp4")  # of the same name
    assert "settings (stamp): use" in extract_video(tmp_path / "head.mp4", tmp_path / "out", options).error
    forced = extract_video(clip, tmp_path / "out", options._replace(frames=2), force=True)
    assert (forced.faces, forced.error) == (2, "")
    assert len(list((tmp_path / "out").glob("head-*.png"))) == 2
    assert sorted(os.listdir(tmp_path)) == ["head.mp4", "out"]
    done = run_script(SCRIPT, clip, tmp_path / "head.mp4", "--output", tmp_path / "out", status=2)
    assert "out holds the faces of one video: several need another --output" in done.stderr


def test_only_an_extraction_is_replaced(clip, tmp_path):
    folder = tmp_path / "mine"
    touch(folder, "holiday.png")
    for options, reason in (
        ((), "holds something else: use --force"),
        (["--force"], "holds no extraction.json, so it is not ours: name another --output"),
    ):
        assert reason in run_script(SCRIPT, clip, "--output", folder, *options, status=1).stderr
    assert os.listdir(tmp_path) == ["mine"]
    touch(tmp_path / "x", "extraction.json", "faces.csv", "contact_sheet.png", "person2/a-000012.png")
    for name in ("notes.xlsx", "holiday.png", "person2/extraction.json", "person2/thesis.docx"):
        touch(tmp_path / "x", name)
        error = run_script(SCRIPT, clip, "--output", tmp_path / "x", "--force", status=1).stderr
        assert f"holds {name}, which does not belong there" in error
        (tmp_path / "x" / name).unlink()


def test_two_runs_do_not_mix_in_one_folder(clip, tmp_path):
    """The first to finish has the folder, whole; the other says so and leaves nothing."""
    options = pipeline.FaceOptions(frames=2)

    def overtake(found):
        yield from found
        assert extract_video(clip, tmp_path / "x", options).faces == 2

    late = extract_video(clip, tmp_path / "x", options._replace(frames=3), watch=overtake)
    assert re.fullmatch(r"/.*/x: Directory not empty", late.error)
    assert extract_video(clip, tmp_path / "x", options).before
    assert os.listdir(tmp_path) == ["x"]


def test_several_videos_in_processes(clip, films, tmp_path):
    """Each in a folder of its own, as deep as the video; the crops are training data as they are."""
    pair = films / "pair.mp4"
    sources = {"df/one.mp4": clip, "df/two.mp4": pair, "real/one.avi": clip, "real/one.mp4": pair}
    for name, source in sources.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "in" / name)
    lines = [f"{tmp_path}/in/{name}: 3 faces in 3 frames, 0 without a face" for name in sources]
    for jobs, before in (("1", ""), ("2", ""), ("2", " (done before)")):
        command = [SCRIPT, tmp_path / "in", "--output", tmp_path / jobs, "--frames", "3", "--jobs", jobs]
        assert run_script(*command).stdout.splitlines() == [line + before for line in lines]
    files = [path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.*") if path.is_file()]
    assert {str(file.parent) for file in files} == {"df/one", "df/two", "real/one.avi", "real/one.mp4"}
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()
    items, _ = pipeline.find_files([tmp_path / "1"])
    labels = {("df", "one"), ("df", "two"), ("real", "one.avi"), ("real", "one.mp4")}
    assert {(item.label, item.video) for item in items} == labels


def test_videos_on_a_cluster(clip, tmp_path):
    from distributed import LocalCluster

    shutil.copy(clip, tmp_path / "x.mp4")
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        command = [SCRIPT, clip, tmp_path / "x.mp4", "--output", tmp_path / "o", "--frames", "2", "--dask"]
        lines = run_script(*command, cluster.scheduler_address).stdout.splitlines()
    assert lines == [f"{path}: 2 faces in 2 frames, 0 without a face" for path in (clip, tmp_path / "x.mp4")]
    assert len(list((tmp_path / "o").glob("*/*-000019.png"))) == 2


def test_everyone_gets_a_folder(films, tmp_path):
    pair = films / "pair.mp4"  # two people side by side, the right one larger
    found = extract_video(pair, tmp_path / "out", pipeline.FaceOptions(everyone=True))
    assert (found.frames, found.faces, found.people, found.empty) == (8, 16, 2, 0)
    for row in read_table(tmp_path / "out/faces.csv"):
        assert row["person"] == ("1" if float(row["x"]) > 320 else "2")
        assert row["file"] == f"person{row['person']}/pair-{int(row['frame']):06}.png"
        assert (tmp_path / "out" / row["file"]).is_file()
    small = extract_video(pair, tmp_path / "large", pipeline.FaceOptions(everyone=True, min_size=160))
    assert (small.faces, small.refused, small.people, small.empty) == (8, 8, 1, 0)
    assert all(float(row["size"]) >= 160 for row in read_table(tmp_path / "large/faces.csv"))
    # persons of one video are one video, where it is asked which images belong together
    assert len({item.video for item in pipeline.find_files([tmp_path / "out"])[0]}) == 1


def test_another_person_is_doubted(portrait, tmp_path):
    pose = pipeline.Pose(320, 240, 150, 0)
    frames = [film(open_portrait("obama") if i == 4 else portrait, pose) for i in range(7)]
    found = extract_video(write_clip(tmp_path / "cut.mp4", frames), tmp_path / "out", pipeline.FaceOptions())
    assert (found.faces, found.people, found.doubtful) == (7, 2, 1)
    assert [row["frame"] for row in read_table(tmp_path / "out/faces.csv") if row["doubt"] == "identity"] == [
        "4"
    ]


@pytest.mark.parametrize(("number", "jobs"), [("SIGKILL", 1), ("SIGINT", 1), ("SIGINT", 2)])
def test_a_stopped_run_continues(clip, tmp_path, number, jobs):
    """Stopped in the middle of the second video of three."""
    for i in range(3):
        shutil.copy(clip, tmp_path / f"{i}.mp4")
    command = [*(f"{i}.mp4" for i in range(3)), "--output", "o", "--jobs", str(jobs)]
    process = start(ROOT / SCRIPT, *command, cwd=tmp_path, start_new_session=True)
    wait_for(process, tmp_path / "o", ".writing-*/1/*.png")
    os.killpg(process.pid, signal.Signals[number])  # its processes too, as a terminal does
    _, error = process.communicate()
    assert not (tmp_path / "o/1").exists()
    if number == "SIGINT":
        assert (process.returncode, error) == (130, f"{SCRIPT}: stopped; the same command continues\n")
        assert not list((tmp_path / "o").glob(".*"))
    before = [name for name in "012" if (tmp_path / "o" / name / "extraction.json").is_file()]
    assert before == ["0"] or jobs > 1
    lines = run_script(SCRIPT, *command, cwd=tmp_path).stdout.splitlines()
    assert [line[:1] for line in lines if line.endswith("2 doubtful (done before)")] == before
    assert sum(line.endswith("2 doubtful") for line in lines) == 3 - len(before)


def test_a_full_disk_is_one_line(clip, tmp_path):
    process = start(ROOT / SCRIPT, clip, "--frames", "2", cwd=tmp_path, full_at=1000)
    _, error = process.communicate()
    assert (process.returncode, error) == (1, f"{clip}: File too large\n")
    assert os.listdir(tmp_path) == []


def test_a_broken_face_recognition_is_explained(clip, tmp_path):
    """Without its models' pkg_resources it calls quit(), after telling to install what is there."""
    (tmp_path / "face_recognition_models.py").write_text("import no_such_package")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = start(ROOT / SCRIPT, clip, "--output", tmp_path / "o", env=environment)
    _, error = process.communicate()
    assert process.returncode == 1
    assert "face_recognition cannot import its models (No module named 'no_such_package')" in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("*o*/*"))


def test_wrong_usage():
    for arguments, reason in (
        (["x.mp4", "--output", ""], "an argument is empty"),
        (["x.mp4", "--min-size", "nan"], "--min-size: must be a whole number of at least 1, not nan"),
        (["gone.mp4"], "no video in gone.mp4: name one: python3 extract_faces.py clip.mp4"),
    ):
        assert reason in run_script(SCRIPT, *arguments, status=2).stderr
