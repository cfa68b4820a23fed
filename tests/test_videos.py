"""Frames of videos: which, when, how they stand; and files that are no good."""

import argparse
import contextlib
import re
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import RATE, draw_number, film, locate, make_sound, read_number, write_clip
from conftest import read_rows, run_script
from PIL import Image

import pipeline

NUMBERS = [draw_number(i) for i in range(200)]
FORMATS = {  # name: (codec, options); most have B-frames or altrefs
    "gop12.mp4": ("libx264", {"g": "12", "bf": "3", "sc_threshold": "0"}),
    "gop250.mp4": ("libx264", {"g": "250", "bf": "3"}),
    "open.mkv": ("libx264", {"g": "30", "bf": "3", "sc_threshold": "0", "x264-params": "open-gop=1"}),
    "refresh.ts": ("libx264", {"g": "40", "x264-params": "intra-refresh=1"}),
    "hevc.mp4": ("libx265", {"g": "30", "x265-params": "log-level=error"}),
    "plain.avi": ("mpeg4", {"g": "12"}),
    "xvid.avi": ("mpeg4", {"g": "25", "bf": "2"}),
    "bframes.avi": ("libx264", {"g": "12", "bf": "3"}),
    "vp8.webm": ("libvpx", {"g": "40", "auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}),
    "vp9.webm": ("libvpx-vp9", {"g": "40", "deadline": "realtime"}),
    "mpeg2.ts": ("mpeg2video", {"g": "15", "bf": "2"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_those_of_their_index(tmp_path, name):
    """Every way in gives the frames of a decode from the start."""
    clip = write_clip(tmp_path / name, NUMBERS, *FORMATS[name])
    whole = list(pipeline.read_frames(clip, None))
    assert [f.index for f in whole] == [read_number(f.image) for f in whole] == list(range(200))
    np.testing.assert_allclose([f.time for f in whole], np.arange(200) / RATE, atol=1e-3)
    for count in (5, 30, 500):
        frames = list(pipeline.read_frames(clip, count))
        assert [f.index for f in frames] == np.linspace(0, 199, min(count, 200)).round().tolist()
        assert [f.time for f in frames] == [whole[f.index].time for f in frames]
    keys = list(pipeline.read_frames(clip, 500, keyframes=True))
    if name in ("gop12.mp4", "open.mkv", "vp9.webm"):  # others set more where they see a cut
        assert [f.index for f in keys] == list(range(0, 200, int(FORMATS[name][1]["g"])))
    two = [f.index for f in pipeline.read_frames(clip, 2, keyframes=True)]
    assert two == sorted({0, keys[-1].index})
    late, last = pipeline.read_frames(clip, 3, start=4), pipeline.read_frames(clip, 1, start=6, end=6.1)
    for frame in (*frames, *pipeline.read_frames(clip, 5), *keys, *late, *last):
        np.testing.assert_array_equal(frame.image, whole[frame.index].image, str(frame.index))
    between = pipeline.read_frames(clip, 4, start=2, end=4)
    assert [read_number(frame.image) for frame in between] == [50, 67, 83, 100]
    with pytest.raises(ValueError, match=r"no frame in the time given: it lasts 7\.96 s"):
        list(pipeline.read_frames(clip, 5, start=9, end=10))


def test_variable_frame_rate(tmp_path):
    stamps = np.cumsum([40, 10, 90, 33] * 20).tolist()
    clip = write_clip(tmp_path / "clip.mkv", NUMBERS[:80], stamps=stamps, options={"bf": "2"})
    frames = list(pipeline.read_frames(clip, 13))
    assert [read_number(f.image) for f in frames] == [f.index for f in frames]
    expected = [(stamps[f.index] - stamps[0]) / 1000 for f in frames]
    np.testing.assert_allclose([f.time for f in frames], expected, atol=2e-3)


def filter_frames(clip, *filters):
    """Yield the frames of a clip as stored, uint8 RGB, changed by FFmpeg's filters."""
    with av.open(str(clip)) as container:
        graph, stream = av.filter.Graph(), container.streams.video[0]
        between = [graph.add(*text.split("=", 1)) for text in filters]
        graph.link_nodes(graph.add_buffer(stream), *between, graph.add("buffersink")).configure()
        for frame in [*container.decode(stream), None]:
            graph.push(frame)
            with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
                while True:
                    yield graph.vpull().to_ndarray(format="rgb24")


ORIENTATIONS = {  # matrix of an MP4: the filters with which the ffmpeg command shows it
    (1, 0, 0, 1): (), (-1, 0, 0, 1): ("hflip",),
    (1, 0, 0, -1): ("vflip",), (-1, 0, 0, -1): ("hflip", "vflip"),
    (0, 1, -1, 0): ("transpose=clock",), (0, -1, 1, 0): ("transpose=cclock",),
    (0, 1, 1, 0): ("transpose=cclock_flip",), (0, -1, -1, 0): ("transpose=clock_flip",),
}  # fmt: skip


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_videos_are_turned_and_mirrored_as_ffmpeg_does(tmp_path, matrix):
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:20, :30] = 255
    clip = write_clip(tmp_path / "clip.mp4", [frame] * 5)
    content = bytearray(clip.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    values = (*matrix[:2], 0, *matrix[2:], 0, 0, 0)
    content[at : at + 32] = b"".join((value << 16).to_bytes(4, "big", signed=True) for value in values)
    clip.write_bytes(content)
    (seen,) = pipeline.read_frames(clip, 1)
    np.testing.assert_array_equal(seen.image, next(filter_frames(clip, *ORIENTATIONS[matrix])))
    assert seen.image.flags.c_contiguous


BWDIF = "bwdif=mode=send_frame:deint=interlaced"


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("top.mts", "libx264", {"x264-params": "tff=1"}),
        ("bottom.avi", "libx264", {"x264-params": "bff=1"}),  # whose frames have no stamps
        ("top.ts", "mpeg2video", {"flags": "+ilme+ildct"}),
        ("plain.mp4", "libx264", {}),
    ],
)
def test_interlaced_frames_are_those_of_ffmpegs_bwdif(tmp_path, name, codec, options):
    """Wherever reading begins. Frames, indices and times stay; progressive frames are left alone."""
    moments = [np.roll(draw_number(777), 2 * i, axis=1) for i in range(160)]
    woven = [moments[2 * i].copy() for i in range(80)]
    for i, frame in enumerate(woven):
        frame[1::2] = moments[2 * i + 1][1::2]
    clip = write_clip(tmp_path / name, woven, codec, {"g": "12", "bf": "2"} | options)
    timeline, expected = pipeline.read_timeline(clip), list(filter_frames(clip, *[BWDIF] * bool(options)))
    assert timeline.note == ("interlaced: deinterlaced" if options else "")
    frames = list(pipeline.read_frames(clip, None))
    assert [frame.index for frame in frames] == list(range(80))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(80) / 25, atol=1e-3)
    keys = pipeline.read_frames(clip, 2, start=1.5, keyframes=True)
    for frame in (*frames, *pipeline.read_frames(clip, 3), *keys):
        np.testing.assert_array_equal(frame.image, expected[frame.index])


TWINS = {"interlaced": "interlaced_progressive_twin", "hdr10_pq": "hdr10_pq_twin_sdr"}


@pytest.mark.parametrize("name", TWINS)
def test_a_video_scores_as_its_twin_without_the_defect(shared, tmp_path, name):
    clips = [shared / f"inputs/{one}.mp4" for one in (name, TWINS[name])]
    run_script("deepfakes_images.py", *clips, "--output", tmp_path / "results")
    first, twin = (read_rows(tmp_path / "results")[str(clip)] for clip in clips)
    assert float(first["score"]) == pytest.approx(float(twin["score"]), abs=0.1)
    assert "deepfake" not in (first["verdict"], twin["verdict"])


SIGNALS = {  # number of the transfer curve: signals of 0, 100, 203 and 1,000 nits (BT.2408; white is 1)
    16: (0, 0.508, 0.581, 0.752),
    18: (0, 0.629, 0.75, 1),
    14: (0, 1, 1, 1),
}


@pytest.mark.parametrize("curve", SIGNALS)
def test_hdr_and_wide_colours_become_those_of_sdr(tmp_path, curve):
    """Four greys; and the primaries of BT.709, which BT.2020's mix."""
    greys = [(signal,) * 3 for signal in SIGNALS[curve]]
    primaries = np.linalg.inv(pipeline.TO_BT709).T ** (1 / 2.4)
    row = np.repeat([*greys, *primaries], 32, axis=0)
    frame = (np.tile(row, (64, 1, 1)) * 1023).round().astype(np.uint16)
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.height, stream.width, stream.pix_fmt = 64, len(row), "gbrp10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = curve, 9
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "gbrp10le")))
        container.mux(stream.encode())
    timeline = pipeline.read_timeline(tmp_path / "x.mkv")
    assert timeline.note == ("HDR: converted to SDR" if curve != 14 else "")
    (read,) = pipeline.read_frames(tmp_path / "x.mkv")
    found = read.image[32, 16::32].astype(int)
    levels = (0, 216, 247, 255) if curve != 14 else (0, 255, 255, 255)
    np.testing.assert_allclose(found[:4], np.repeat([levels], 3, axis=0).T, atol=2)
    if curve == 14:
        np.testing.assert_allclose(found[4:], 255 * np.eye(3), atol=20)  # the eye sees none of 20


def test_odd_sizes_ten_bits_and_one_frame(tmp_path):
    odd, ten, clip = [draw_number(i, 63, 161) for i in range(9)], NUMBERS[:9], tmp_path / "x.mkv"
    quiet = {"x265-params": "log-level=error"}
    for drawn, *options in ((odd, "ffv1", {}, None, "yuv444p"), (ten, "libx265", quiet, None, "yuv420p10le"),
                            (ten[:1], "libx264")):  # fmt: skip
        frames = list(pipeline.read_frames(write_clip(clip, drawn, *options)))
        assert [read_number(f.image) for f in frames] == list(range(len(drawn)))
        assert {f.image.shape for f in frames} == {drawn[0].shape}
        assert all(f.image.flags.c_contiguous and f.image.dtype == np.uint8 for f in frames)


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
    frames = list(pipeline.read_frames(tmp_path / "cut.mp4", None))
    assert frames[0].time == 0
    for frame in (*frames, *pipeline.read_frames(tmp_path / "cut.mp4", 5)):
        assert read_number(frame.image) == 60 - len(frames) + frame.index


def test_damage_in_the_middle_is_passed_over_and_counted(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", NUMBERS, options={"g": "12", "bf": "3"})
    content = bytearray(clip.read_bytes())
    middle = content.index(b"mdat") + 5000
    content[middle : middle + 1500] = bytes(1500)
    clip.write_bytes(content)
    frames = list(pipeline.read_frames(clip, 200, threads=1))
    assert 140 < len(frames) <= 200
    assert frames[-1].index == 199
    # x264 writes other bytes each time, so other frames are hit; those before them, and the last, are right
    wrong = [f.index for f in frames if read_number(f.image) != f.index]
    assert len(wrong) < 40
    assert all(40 < index < 199 for index in wrong)
    command = ("extract_faces.py", clip, "--frames", "200", "--output", tmp_path / "faces")
    for done in (run_script("deepfakes_images.py", clip, "--frames", "200"), run_script(*command, status=1)):
        assert re.search(r"clip\.mp4.* \([1-9]\d* of 200 frames damaged\)$", done.stdout, re.MULTILINE)


def test_what_is_no_video_is_one_clear_line_each(tmp_path, portrait):
    headless = write_clip(tmp_path / "headless.mp4", NUMBERS[:30])
    headless.write_bytes(headless.read_bytes()[: headless.stat().st_size // 2])  # its index came last
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    with av.open(str(tmp_path / "sound.m4v"), "w") as container:
        container.mux(container.add_stream("aac", 16000).encode(make_sound(np.zeros(16000), 16000)))
    (tmp_path / "text.mp4").write_text("This is not a video.\n" * 50)
    write_clip(tmp_path / "face.MP4", [film(portrait, locate(portrait)._replace(x=320, y=240))] * 3)
    missing = tmp_path / "zone.mp4"
    done = run_script("extract_faces.py", tmp_path, missing, "--output", tmp_path / "out", status=1)
    assert done.stdout == f"{tmp_path}/face.MP4: 3 faces in 3 frames, 0 without a face\n"
    reasons = {"sound.m4v": "it has no video of a known codec", "empty.mp4": "empty file",
               "zone.mp4": "No such file or directory"}  # fmt: skip
    for name in ("headless.mp4", "noise.mkv", "text.mp4"):
        reasons[name] = "not a readable video .*"
    for line, (name, reason) in zip(done.stderr.splitlines(), sorted(reasons.items()), strict=True):
        assert re.fullmatch(rf"{re.escape(str(tmp_path / name))}: {reason}", line)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["face"]


def test_seeking_into_a_faceforensics_clip(shared):
    """H.264 High 4:4:4 Predictive of an old x264, whose version the first frame alone tells."""
    clip = shared / "videos/training/real/ffpp_c23_055.mp4"
    whole = {frame.index: frame.image for frame in pipeline.read_frames(clip, None, end=11)}
    for frame in pipeline.read_frames(clip, 5, start=9, end=11):
        np.testing.assert_array_equal(frame.image, whole[frame.index])


def test_times_are_read_as_ffmpeg_reads_them():
    for text, seconds in (("8", 8), ("1:30", 90), ("00:00:08", 8), ("1:02:03.5", 3723.5), ("0.25", 0.25)):
        assert pipeline.read_time(text) == seconds
    for text in ("1:2:3:4", "a:10", "1:-5", "", "1:", "::", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be"):
            pipeline.read_time(text)


INPUTS = {  # name: (when frames are shown, in 1/25 s; what is said)
    "avi_dropped_frames.avi": ([*range(11), *range(14, 167, 4)], ""),  # the other packets hold no picture
    "cat_same.ts": (range(200), ""),  # joined: its stamps repeat
    "cut_timecode_at_end.mp4": ([*range(108), 109], "cut short: the last 3.6 of 8.0 s are missing"),
    "dup_stamp.mkv": (range(12), ""),
    "latin1_title.avi": (range(50), ""),  # its tags are not UTF-8
    "thumb_first.mkv": (range(50), ""),
}


@pytest.mark.parametrize("name", INPUTS)
def test_times_are_ffmpegs_and_indices_count_pictures(shared, name):
    timeline, (shown, note) = pipeline.read_timeline(shared / "inputs" / name), INPUTS[name]
    np.testing.assert_allclose(timeline.times, np.array(shown) / 25, atol=1e-9)
    assert timeline.note == note
    frames = list(pipeline.read_frames(shared / "inputs" / name, timeline=timeline))
    wanted = pipeline.choose_frames(timeline, 30, 0, None, False)
    missing = 1 if name.startswith("cut") else 0  # the last frame builds on what was cut off
    assert [frame.index for frame in frames] == wanted[: len(wanted) - missing]
    assert [frame.time for frame in frames] == [timeline.times[frame.index] for frame in frames]


def test_pixels_are_made_square(tmp_path):
    for aspect, size in (((4, 3), (64, 213)), ((3, 4), (85, 160))):
        clip = write_clip(tmp_path / "x.mp4", NUMBERS[5:6], aspect=Fraction(*aspect))
        assert next(pipeline.read_frames(clip)).image.shape[:2] == size


def test_colours_of_bt709(tmp_path):
    """PyAV before 17 decoded them as BT.601: 194, 134, 111."""
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("libx264", 25, options={"crf": "1", "colorspace": "bt709"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        plain = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), (200, 140, 110), np.uint8), "rgb24")
        container.mux(stream.encode(plain.reformat(format="yuv420p", dst_colorspace="itu709")))
        container.mux(stream.encode())
    (frame,) = pipeline.read_frames(tmp_path / "x.mp4")
    np.testing.assert_allclose(frame.image[300, 300], (200, 140, 110), atol=2)


@pytest.mark.parametrize(("suffix", "form"), [("gif", "GIF"), ("apng", "PNG")])
def test_animated_images_are_videos(tmp_path, suffix, form):
    pages = [Image.fromarray(np.full((64, 64, 3), 80 * i, np.uint8)) for i in range(3)]
    pages[0].save(tmp_path / f"x.{suffix}", form, save_all=True, append_images=pages[1:], duration=200)
    pages[0].save(tmp_path / f"still.{suffix}", form)
    items, _ = pipeline.find_files([tmp_path])
    assert {item.path.stem: item.kind for item in items} == {"still": "image", "x": "video"}
    read = list(pipeline.read_frames(tmp_path / f"x.{suffix}"))
    assert [frame.time for frame in read] == pytest.approx([0, 0.2, 0.4])
    assert [int(frame.image.mean()) for frame in read] == pytest.approx([0, 80, 160], abs=3)


def test_videos_are_known_by_suffix_or_content(tmp_path, portrait):
    """In folders by suffix, named as such by content; what else a folder holds is counted."""
    pose = locate(portrait)
    clip = write_clip(tmp_path / "clip.mts", [film(portrait, pose._replace(x=320, y=240))] * 2, "mpeg2video")
    (tmp_path / "folder").mkdir()
    names = [f"{tmp_path}/folder/{name}" for name in ("a.mts", "b.MPG", "c.vob", "d.ts")]
    for path in (*names, tmp_path / "clip.data"):
        shutil.copy(clip, path)
    Image.fromarray(portrait).save(tmp_path / "folder/p.jfif", "JPEG")
    for name in ("e.pdf", "f.docx", "g.pdf", "readme.txt"):
        (tmp_path / "folder" / name).touch()
    done = run_script("extract_faces.py", tmp_path / "folder", "--output", tmp_path / "o")
    assert re.findall(r"(\S+): 2 faces", done.stdout) == names
    assert done.stderr == "passed over, since they are not videos: .docx: 1, .jfif: 1, .pdf: 2\n"
    done = run_script("deepfakes_images.py", tmp_path / "folder", tmp_path / "clip.data")
    assert done.stderr == "passed over, since they are not images or videos: .docx: 1, .pdf: 2\n"
    assert "of 5 videos)" in done.stdout


def test_matroska_whose_video_begins_late(tmp_path):
    """FFmpeg makes up its decoding times, and they may go back."""
    with av.open(str(tmp_path / "late.mkv"), "w") as container:
        video, sound = container.add_stream("libx264", 25), container.add_stream("aac", 16000, layout="mono")
        video.height, video.width, video.pix_fmt = 64, 160, "yuv420p"
        video.codec_context.time_base = Fraction(1, 25)
        packets = sound.encode(make_sound(np.zeros(160_000), 16000)) + sound.encode()
        for number in range(100):
            picture = av.VideoFrame.from_ndarray(NUMBERS[number], "rgb24")
            picture.pts, picture.time_base = 150 + number, Fraction(1, 25)
            packets += video.encode(picture)
        packets += video.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    frames = list(pipeline.read_frames(tmp_path / "late.mkv", None))
    assert [read_number(frame.image) for frame in frames] == list(range(100))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(100) / 25, atol=1e-3)
