"""Frames of videos: which, when, how they stand; and files that are no good."""

import re

import av
import numpy as np
import pytest
from clips import RATE, draw_number, film, locate, open_portrait, read_number, write_clip, write_sound
from conftest import run_script

import pipeline

NUMBERS = [draw_number(i) for i in range(200)]
FORMATS = {  # name: (codec, options); all but MPEG-4 in AVI have B-frames or altrefs
    "gop12.mp4": ("libx264", {"g": "12", "bf": "3"}),
    "gop250.mp4": ("libx264", {"g": "250", "bf": "3"}),
    "open.mkv": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "hevc.mp4": ("libx265", {"g": "30", "x265-params": "log-level=error"}),
    "plain.avi": ("mpeg4", {"g": "12"}),
    "bframes.avi": ("libx264", {"g": "12", "bf": "3"}),
    "vp8.webm": ("libvpx", {"g": "40", "auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}),
    "vp9.webm": ("libvpx-vp9", {"g": "40", "deadline": "realtime"}),
    "transport.ts": ("libx264", {"g": "12", "bf": "3"}),
}


@pytest.fixture(scope="module")
def portrait():
    return open_portrait()


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_those_of_their_index(tmp_path, name):
    codec, options = FORMATS[name]
    clip = write_clip(tmp_path / name, NUMBERS, codec, options)
    for count in (7, 30, 500):
        frames = list(pipeline.read_frames(clip, count))
        assert [f.index for f in frames] == np.linspace(0, 199, min(count, 200)).round().tolist()
        assert [read_number(f.image) for f in frames] == [f.index for f in frames]
        np.testing.assert_allclose([f.time for f in frames], [f.index / RATE for f in frames], atol=1e-3)


def test_frames_between_times(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", NUMBERS, options={"g": "12", "bf": "3"})
    frames = list(pipeline.read_frames(clip, 5, start=2, end=4))
    assert [f.index for f in frames] == [50, 62, 75, 88, 100]
    assert [read_number(f.image) for f in frames] == [f.index for f in frames]
    with pytest.raises(ValueError, match=r"no frame from 9 to 10 s: it lasts 7\.96 s"):
        list(pipeline.read_frames(clip, 5, start=9, end=10))


@pytest.mark.parametrize("name", ["gop12.mp4", "open.mkv", "plain.avi", "vp9.webm"])
def test_key_frames_alone(tmp_path, name):
    codec, options = FORMATS[name]
    clip = write_clip(tmp_path / name, NUMBERS, codec, options | {"sc_threshold": "0"})
    frames = list(pipeline.read_frames(clip, 500, keyframes=True))
    assert [read_number(f.image) for f in frames] == [f.index for f in frames]
    if codec != "mpeg4":  # sets more where it sees a cut
        assert [f.index for f in frames] == list(range(0, 200, int(options["g"])))
    assert [f.index for f in pipeline.read_frames(clip, 2, keyframes=True)] == [0, frames[-1].index]


def test_seeking_decodes_less(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", NUMBERS, options={"g": "10", "bf": "2"})
    decoded = []
    decode = pipeline._decode

    def count(stream, packets):
        for frame in decode(stream, packets):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(pipeline, "_decode", count)
    frames = list(pipeline.read_frames(clip, 4))
    assert [read_number(f.image) for f in frames] == [f.index for f in frames] == [0, 66, 133, 199]
    assert len(decoded) < 40


def test_variable_frame_rate(tmp_path):
    stamps = np.cumsum([40, 10, 90, 33] * 20).tolist()
    clip = write_clip(tmp_path / "clip.mkv", NUMBERS[:80], stamps=stamps, options={"bf": "2"})
    frames = list(pipeline.read_frames(clip, 13))
    assert [read_number(f.image) for f in frames] == [f.index for f in frames]
    expected = [(stamps[f.index] - stamps[0]) / 1000 for f in frames]
    np.testing.assert_allclose([f.time for f in frames], expected, atol=2e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_phone_video_is_turned_upright(tmp_path, degrees):
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:20, :30] = 255  # top left as stored
    clip = write_clip(tmp_path / "clip.mp4", [frame] * 5)
    turn_header(clip, degrees)
    (seen,) = pipeline.read_frames(clip, 1)
    clockwise = np.rot90(frame, -degrees // 90)
    assert seen.image.shape == clockwise.shape
    assert np.abs(seen.image.astype(int) - clockwise).mean() < 3


def turn_header(path, degrees):
    """Have an MP4 say that it is to be shown turned clockwise."""
    content = bytearray(path.read_bytes())
    cos, sin = (round(f(np.radians(degrees))) for f in (np.cos, np.sin))
    at = content.index(b"tkhd") + 4 + 40
    matrix = [cos, sin, 0, -sin, cos, 0, 0, 0]
    content[at : at + 32] = b"".join((value << 16).to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(content)


def test_odd_sizes_and_ten_bits(tmp_path):
    odd = [draw_number(i, 63, 161) for i in range(9)]
    clips = [
        write_clip(tmp_path / "odd.mkv", odd, "ffv1", pixels="yuv444p"),
        write_clip(tmp_path / "ten.mp4", NUMBERS[:9], "libx265", {"x265-params": "log-level=error"},
                   pixels="yuv420p10le"),
    ]  # fmt: skip
    for clip in clips:
        frames = list(pipeline.read_frames(clip, 9))
        assert [read_number(f.image) for f in frames] == list(range(9))
        assert all(f.image.flags.c_contiguous and f.image.dtype == np.uint8 for f in frames)
    assert frames[0].image.shape == (64, 160, 3)


def test_a_trimmed_video_has_all_frames_shown(tmp_path):
    """Cut without decoding, as phones do: it begins with frames that are not shown, but built on."""
    clip = write_clip(tmp_path / "whole.mp4", NUMBERS[:60], options={"g": "250", "bf": "0"})
    with av.open(str(clip)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = packet.pts - 20 * packet.duration, packet.dts - 20 * packet.duration
                packet.stream = stream
                target.mux(packet)
    frames = list(pipeline.read_frames(tmp_path / "cut.mp4", every=1))
    assert [read_number(f.image) for f in frames] == [*range(60 - len(frames), 60)]
    assert frames[0].time == 0
    sampled = list(pipeline.read_frames(tmp_path / "cut.mp4", 5))
    assert [read_number(f.image) for f in sampled] == [60 - len(frames) + f.index for f in sampled]


def test_one_frame(tmp_path):
    clip = write_clip(tmp_path / "one.mp4", NUMBERS[5:6])
    (frame,) = pipeline.read_frames(clip, 30)
    assert (frame.index, frame.time, read_number(frame.image)) == (0, 0, 5)


def test_a_wrong_count_in_the_header(tmp_path):
    clip = write_clip(tmp_path / "clip.avi", NUMBERS, "mpeg4")
    content = bytearray(clip.read_bytes())
    at = content.index(b"avih") + 8 + 16
    assert int.from_bytes(content[at : at + 4], "little") == 200
    content[at : at + 4] = (90_000).to_bytes(4, "little")
    clip.write_bytes(content)
    assert [read_number(f.image) for f in pipeline.read_frames(clip, 3)] == [0, 100, 199]


def test_a_file_cut_off_gives_what_is_there(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", NUMBERS, options={"g": "12", "bf": "3"})
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) * 3 // 5])
    frames = list(pipeline.read_frames(clip, 10))
    assert 8 <= len(frames) <= 10
    assert 90 < frames[-1].index < 150
    # within the last group of frames some are missing
    assert [read_number(f.image) for f in frames[:-1]] == [f.index for f in frames[:-1]]


def test_damage_in_the_middle_is_passed_over(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", NUMBERS, options={"g": "12", "bf": "3"})
    content = bytearray(clip.read_bytes())
    middle = content.index(b"mdat") + 5000
    content[middle : middle + 1500] = bytes(1500)
    clip.write_bytes(content)
    frames = list(pipeline.read_frames(clip, 200, threads=1))
    assert 140 < len(frames) <= 200
    assert frames[-1].index == 199
    # what the decoder mends, with luck and threads, lies about the damage; all else is right
    wrong = [f.index for f in frames if read_number(f.image) != f.index]
    assert len(wrong) < 40
    assert all(40 < index < 160 for index in wrong)


def write_bad_files(folder):
    """Write what is no video; return {name: what is to be said of it}."""
    good = write_clip(folder / "good.mp4", NUMBERS[:30]).read_bytes()
    (folder / "good.mp4").unlink()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is not a video.\n" * 50)
    (folder / "headless.mp4").write_bytes(good[: len(good) // 2])  # its index came last
    (folder / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    write_sound(folder / "sound.m4v")
    unreadable = "not a readable video"
    return {
        "empty.mp4": "empty file",
        "headless.mp4": unreadable,
        "noise.mkv": unreadable,
        "sound.m4v": "it has no video, only sound",
        "text.mp4": unreadable,
    }


def test_what_is_no_video_is_one_clear_line_each(tmp_path, portrait):
    expected = write_bad_files(tmp_path)
    pose = locate(portrait)
    write_clip(tmp_path / "face.MP4", [film(portrait, pose._replace(x=320, y=240))] * 3)
    done = run_script("extract_faces.py", tmp_path, "--output", tmp_path / "out", status=1)
    assert done.stdout == f"{tmp_path}/face.MP4: 3 faces in 3 frames, 0 without a face\n"
    lines = done.stderr.splitlines()
    assert len(lines) == len(expected)
    for line, (name, reason) in zip(lines, sorted(expected.items()), strict=True):
        assert re.match(rf"{re.escape(str(tmp_path / name))}: {reason}", line)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["face"]


def test_a_missing_video(tmp_path):
    done = run_script("extract_faces.py", cwd=tmp_path, status=2)
    assert done.stderr == (
        "extract_faces.py: video.mp4 does not exist: put a video there, or name one: "
        "python3 extract_faces.py clip.mp4\n"
    )
    (tmp_path / "empty").mkdir()
    done = run_script("extract_faces.py", "empty", cwd=tmp_path, status=2)
    assert done.stderr.startswith("extract_faces.py: no video in empty: ")
    write_clip(tmp_path / "clip.mp4", NUMBERS[:2])
    done = run_script("extract_faces.py", "clip.mp4", "gone.mp4", cwd=tmp_path, status=1)
    assert done.stderr == "gone.mp4: No such file or directory\n"
    assert done.stdout == "clip.mp4: 0 faces in 2 frames, 2 without a face\n"


def test_versions_have_what_is_used():
    assert hasattr(av.VideoFrame, "rotation")
    assert hasattr(av.Packet, "is_discard")
