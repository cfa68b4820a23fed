"""Faces to scores, scores to verdicts, verdicts to figures. See also test_properties.py."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clips import film, open_portrait
from conftest import ROOT
from PIL import Image

import pipeline
from pipeline import Item
from training.extraction import extract_video
from weights import Bounds, Rule, find_weights, load_predictor
from weights.scoring import score, scores, summary
from weights.scoring.metrics import evaluate, evaluate_by_dataset, evaluate_results
from weights.scoring.scores import LOST_NOTE, NO_FACE, NOT_SQUARE, Result
from weights.scoring.verdicts import classify, decide, list_doubts, lower_bound

BOUNDS = Bounds(0.4, 0.6, 0.5)
RULE = Rule(0.5, Bounds(0.3, 0.7, 1.0), BOUNDS, 80.0, 10.0)
WEIGHTS = find_weights("Meso4_DF")


def make_faces(value, number=5, person=1, size=100.0, sharpness=50.0, **more):
    face = pipeline.Face(0, 0, (0, 0, 9, 9), pipeline.Pose(0.0, 0.0, size, 0.0), person, sharpness, **more)
    return [face._replace(frame=i, time=i / 25, score=value) for i in range(number)]


def test_scores_do_not_depend_on_order_run_or_batch_size(monkeypatch):
    """To a millionth: sums in another order round otherwise."""
    paths = sorted(ROOT.glob("test_images/*/*.png"))
    first = {result.item.path: result.score for result in score(paths)}
    assert first == {result.item.path: result.score for result in score(paths)}
    for chosen, size in ((paths[::-1], 32), (paths[:3], 32), (paths, 1), (paths, 3)):
        monkeypatch.setattr(scores, "BATCH_SIZE", size)
        found = {result.item.path: result.score for result in score(chosen)}
        assert found == pytest.approx({path: first[path] for path in chosen}, abs=1.1e-6)


def test_a_score_that_is_no_number_is_an_error(monkeypatch):
    monkeypatch.setattr(scores, "load_predictor", lambda *_: lambda faces: np.full((len(faces), 1), np.nan))
    found = list(score([ROOT / "test_images/real"]))
    assert {(result.score, result.verdict) for result in found} == {(None, "error")}
    assert "they gave the score nan" in found[0].error


def test_scores_are_of_the_faces_extracted(films, tmp_path):
    """Same frames, same crops: what extract_faces.py writes, scored, is what the video scores."""
    clip = films / "real/obama.mp4"
    extract_video(clip, tmp_path / "faces", pipeline.FaceOptions(frames=5))
    (video,) = score([clip], frames=5)
    crops = list(score([tmp_path / "faces"]))
    assert [face.score for face in video.faces] == pytest.approx([crop.score for crop in crops], abs=2e-6)
    assert video.score == pytest.approx(np.mean([face.score for face in video.faces]), abs=1e-6)
    assert {(crop.item.kind, crop.warning) for crop in crops} == {("image", "")}
    Image.open(crops[0].item.path).save(crops[0].item.path)  # Pillow drops comments
    again = list(score([tmp_path / "faces"]))
    assert [crop.warning for crop in again] == [LOST_NOTE, *[""] * 4]


def test_the_lowest_person_decides(films):
    (video,) = score([films / "pair.mp4"], "Meso4_DF", everyone=True)
    means = {}
    for face in video.faces:
        means.setdefault("left" if face.pose.x < 320 else "right", []).append(face.score)
    assert {side: len(values) for side, values in means.items()} == {"left": 8, "right": 8}
    assert np.mean(means["right"]) < 0.2 < np.mean(means["left"])
    assert (video.score, video.verdict) == (pytest.approx(np.mean(means["right"])), "deepfake")


def test_crops_and_photographs_are_told_apart(portrait, photo, tmp_path):
    left = film(portrait, pipeline.Pose(160, 240, 140, 20))[:, :320]
    right = film(open_portrait("obama"), pipeline.Pose(480, 240, 150, -30))[:, 320:]
    square = film(portrait, pipeline.Pose(250, 240, 100, 0), (500, 500))
    for name, picture in {
        "pair": np.concatenate((left, right), axis=1),
        "square": square,
        "large_crop": pipeline.resize_face(square[175:305, 185:315], "bilinear", 500),
        "wall": np.full((500, 500, 3), 99, np.uint8),
        "small_crop": np.asarray(photo.resize((300, 280))),
    }.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png")

    def look(align=None):
        return {r.item.path.stem: r for r in score([tmp_path], "Meso4_DF", align=align)}

    found = look()
    assert {name for name, result in found.items() if result.item.kind == "photo"} == {"pair", "square"}
    assert [len(found[name].faces) for name in ("pair", "square", "wall")] == [2, 1, 0]
    assert sorted(round(face.pose.angle, -1) for face in found["pair"].faces) == [-30, 20]
    assert found["pair"].score == min(face.score for face in found["pair"].faces)
    assert found["wall"].warning.startswith(NO_FACE)
    assert found["large_crop"].warning == ""
    assert {r.item.kind for r in look(align=True).values()} == {"photo"}
    assert look(align=True)["wall"].verdict == "no face"
    crops = look(align=False)
    assert {r.item.kind for r in crops.values()} == {"image"}
    assert crops["pair"].warning == NOT_SQUARE


def test_several_threads_share_network_and_detector(portrait, noise):
    wall = np.full((500, 500, 3), 99, np.uint8)
    pictures = [film(portrait, pipeline.Pose(250, 240, 100, 0), (500, 500)), wall]
    for work, inputs in (
        (load_predictor(WEIGHTS), [noise[: i % 4 + 1] for i in range(8)]),
        (scores.measure_largest_face, pictures),
    ):
        expected = list(map(work, inputs)) * 20
        with ThreadPoolExecutor(4) as pool:
            for one, other in zip(pool.map(work, inputs * 20), expected, strict=True):
                np.testing.assert_array_equal(one, other)


def test_jobs_give_the_same(films):
    one, two = (list(score([films], jobs=jobs)) for jobs in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert (a.item, a.verdict, len(a.faces)) == (b.item, b.verdict, len(b.faces))
        for face, other in zip(a.faces, b.faces, strict=True):
            assert face._replace(score=0) == other._replace(score=0)
            assert face.score == pytest.approx(other.score, abs=2e-6)  # another number of threads


FEW, LOWEST = "too few clear faces to decide", "the lowest of 2 people decides"
UNCOUNTED = f"1 of 2 people not counted: {FEW}"
CLEAR, MANY = make_faces(0.9), make_faces(0.9, 20)
DECISIONS = [  # faces, kind, rule, and what comes of them
    # videos and photographs have bounds of their own
    (make_faces(0.39), "video", RULE, (0.39, "deepfake", "")),
    (make_faces(0.4), "video", RULE, (0.4, "uncertain", "")),
    (make_faces(0.6), "video", RULE, (0.6, "uncertain", "")),
    (make_faces(0.61), "video", RULE, (0.61, "real", "")),
    (make_faces(0.29), "photo", RULE, (0.29, "deepfake", "")),
    (make_faces(0.39), "photo", RULE, (0.39, "uncertain", "")),
    (make_faces(0.71), "photo", RULE, (0.71, "real", "")),
    # without bounds one threshold decides
    *((make_faces(0.49), kind, Rule(), (0.49, "deepfake", "")) for kind in ("video", "photo")),
    *((make_faces(0.5), kind, Rule(), (0.5, "real", "")) for kind in ("video", "photo")),
    ([], "video", Rule(), (None, "no face", "")),
    # who is hardly seen decides nothing
    *((MANY + make_faces(0.1, 2, 2), "video", rule, (0.9, "real", UNCOUNTED)) for rule in (RULE, Rule())),
    (MANY + make_faces(0.1, 3, 2), "video", Rule(), (0.1, "deepfake", LOWEST)),
    (MANY + make_faces(0.1, 3, 2), "video", RULE, (0.1, "deepfake", f"{LOWEST} (deepfake below 0.363)")),
    (make_faces(0.9, 2) + make_faces(0.1, 1, 2), "video", RULE, (0.1, "uncertain", FEW)),
    # nor does who is small and blurred
    (CLEAR + make_faces(0.0, 9, 2, size=79), "video", RULE,
     (0.9, "real", f"9 of 14 faces small, {UNCOUNTED}")),
    (make_faces(0.0, 9, sharpness=9, size=79), "video", RULE,
     (0.0, "uncertain", f"{FEW}, 9 of 9 faces small, 9 of 9 faces blurred")),
    # the mean of a person who decides is that of all faces, as published; but half must be clear
    (CLEAR + make_faces(0.0, 5, size=79), "video", RULE, (0.45, "uncertain", "5 of 10 faces small")),
    (CLEAR + make_faces(0.0, 6, size=79), "video", RULE,
     (4.5 / 11, "uncertain", f"{FEW}, 6 of 11 faces small")),
]  # fmt: skip


@pytest.mark.parametrize(("faces", "kind", "rule", "expected"), DECISIONS)
def test_verdicts(faces, kind, rule, expected):
    assert decide(faces, kind, rule) == (pytest.approx(expected[0]), *expected[1:])


@pytest.mark.parametrize(
    ("measured", "word"),
    [({"brightness": 34}, "dark"), ({"saturation": 0.05}, "black and white"),
     ({"outside": 0.11}, "cut off by the edge")],
)  # fmt: skip
def test_faces_that_the_weights_do_not_know_decide_nothing(measured, word):
    odd = make_faces(0.1, 4, 2, **measured)
    assert decide(odd, "video", RULE) == (pytest.approx(0.1), "uncertain", f"{FEW}, 4 of 4 faces {word}")
    assert decide(CLEAR + odd, "video", RULE)[:2] == (pytest.approx(0.9), "real")
    assert decide(odd[:1], "photo", RULE)[1] == "uncertain"
    assert list_doubts(odd[0], Rule()) == [word]


def test_black_and_white_and_cut_off_faces_are_noticed(shared, portrait, tmp_path):
    (grey,) = score([shared / "inputs/black_and_white.mp4"])
    assert (grey.score, grey.verdict) == (pytest.approx(0.458, abs=0.01), "uncertain")
    assert grey.warning == "too few clear faces to decide, 30 of 30 faces black and white"
    whole = film(portrait, pipeline.Pose(250, 240, 160, 0), (500, 500))
    for left, outside in ((140, 0), (180, 0.04), (215, 0.25)):
        Image.fromarray(whole[:, left:]).save(tmp_path / "a.png")
        (found,) = score([tmp_path / "a.png"], align=True)
        assert found.faces[0].outside == pytest.approx(outside, abs=0.06), left
        assert ("cut off by the edge" in found.warning) == (left == 215)
    for name in ("real", "df"):
        (found,) = score([shared / f"videos/clips/face_filling_frame_{name}.mp4"], frames=10)
        assert all(0 < face.pose.x < 200 for face in found.faces)  # not of the mirror image


def test_more_people_need_a_lower_score_and_crops_have_one_threshold():
    bounds = [lower_bound(BOUNDS, people) for people in (1, 2, 6)]
    assert bounds == pytest.approx([0.4, 0.36285, 0.31431], abs=1e-4)
    assert [classify(0.35, "video", RULE, people) for people in (1, 6, 0)] == ["deepfake", *["uncertain"] * 2]
    assert [classify(value, "image", RULE) for value in (0.49, 0.5)] == ["deepfake", "real"]


def make_result(label, video, value, verdict, dataset=""):
    return Result(Item(Path("x.png"), "x", label, dataset, video), value, verdict)


def test_error_rates_name_the_kinds_missed_most_first():
    level = {"lower": 0.4, "upper": 0.6, "real": 40, "forged": 28, "real_called_deepfake": 0.05}
    level |= {"forged_called_real": 0.18, "uncertain": 0.2, "real_error_interval": [0.01, 0.13]}
    kinds = {"real": (2, 8, 30), "deepfakes": (13, 0, 1), "faceswap": (5, 5, 4)}
    verdicts = ("deepfake", "uncertain", "real")
    kinds = {kind: dict(zip(verdicts, counts, strict=True)) for kind, counts in kinds.items()}
    card = {"calibration": {"video": level, "face": level, "kinds": kinds}, "forgeries": ["A", "B"]}
    real = "of 40 real, 2 were called deepfake (90 % interval: 1 to 13 %); 20 % stayed uncertain"
    end = f"{real} (deepfake below 0.400, real above 0.600)."
    first = "Of 14 FaceSwap videos it was not trained on, 4 passed as real; of 14 Deepfakes, 1; "
    assert summary.describe_errors(card, "video") == first + end
    first = "Of 28 forged faces it was not trained on, 5 passed as real; "
    assert summary.describe_errors(card, "photo") == first + end
    assert summary.describe_knowledge(card) == "Knows A, B; newer kinds pass as real."
    assert summary.describe_errors({}, "video") == summary.describe_knowledge({}) == ""


def test_evaluate_known_figures():
    labels, values = ["df", "df", "df", "df", "real", "real"], [0.1, 0.2, 0.3, 0.9, 0.8, 0.4]
    verdicts = ["deepfake", "deepfake", "uncertain", "real", "real", "deepfake"]
    found = evaluate(labels, values, verdicts)
    assert (found["accuracy_df"], found["accuracy_real"], found["balanced_accuracy"]) == (0.5, 0.5, 0.5)
    assert (found["accuracy"], found["uncertain"]) == (0.5, pytest.approx(1 / 6))
    assert found["auc"] == pytest.approx(6 / 8)
    assert "auc" not in evaluate(["df", "df"], [0.1, 0.2], ["real", "real"])


def test_the_crops_of_a_video_are_one():
    values = [("df", 0.1), ("df", 0.7), ("df", 0.3), ("real", 0.9), ("", 0.0)]
    found = [make_result(label, "a", value, classify(value, "image", RULE)) for label, value in values]
    levels = evaluate_results(found, RULE)
    assert (levels["image"]["count"], levels["image"]["accuracy_df"]) == (4, pytest.approx(2 / 3))
    assert levels["video"]["count"] == 2  # a forged and a real video may share a name
    assert levels["video"]["accuracy_df"] == 1.0  # the mean is 0.37
    assert evaluate_results(found[4:], RULE) == {}


def test_kinds_of_forgery():
    def make(label, video, value):
        return make_result(label, video, value, classify(value, "image", RULE), "set")

    found = [make("real", f"{video}", 0.8) for video in (1, 2) for _ in range(3)]
    found += [make("df", f"swap_{video}", 0.2) for video in (1, 2) for _ in range(3)]
    found += [make("df", "f2f_1", value) for value in (0.45, 0.9, 0.75)]
    figures = evaluate_by_dataset(found, RULE)
    assert list(figures) == ["set f2f", "set swap", "all", "mean"]
    assert figures["set swap"]["image"]["auc"] == 1
    assert figures["set f2f"]["image"]["auc"] == pytest.approx(2 / 3)  # one of three above the real ones
    assert figures["set f2f"]["video"]["accuracy_df"] == 0  # the mean is 0.7
    found += [make("df", "7", 0.9), make_result("real", "1", 0.9, "real", "b")]
    figures = evaluate_by_dataset(found, RULE)
    assert figures["set other"]["image"]["accuracy_df"] == 0
    assert figures["set"]["image"]["count"] == 16  # all of them
