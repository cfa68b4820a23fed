"""Copies of videos and pictures with boxes, scores and verdicts drawn on them."""

import bisect
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from PIL import Image, ImageDraw, ImageFont

import pipeline
from pipeline import Box, Face, FaceOptions
from weights import Rule
from weights.scoring.figures import COLORS
from weights.scoring.scores import Result
from weights.scoring.verdicts import judge_face

TICKS = 90_000  # per second: the time base of an annotated video


def annotate(result: Result, path: Path, rule: Rule, options: FaceOptions) -> str:
    """Write an annotated copy, an MP4 with sound or a PNG; return what is wrong with it, or ""."""

    def draw(part: Path) -> str:
        if result.item.kind == "video":
            return _annotate_video(result, part, rule, options)
        image = Image.fromarray(pipeline.read_image(result.item.path))
        draw_verdicts(image, result, result.faces, rule)
        image.save(part, "PNG")
        return ""

    try:
        return pipeline.write_atomically(path, draw)
    except (OSError, ValueError, MemoryError, av.error.FFmpegError) as error:
        return f"no annotated copy: {pipeline.describe_error(error)}"


def _annotate_video(result: Result, path: Path, rule: Rule, options: FaceOptions) -> str:
    timeline = pipeline.read_timeline(result.item.path)
    faces: dict[int, list[Face]] = {i: [] for i in pipeline.choose_frames(timeline, *options.sampling)}
    for face in result.faces:
        faces.setdefault(face.frame, []).append(face)
    with pipeline.open_video(result.item.path) as source, av.open(str(path), "w", format="mp4") as target:
        video = target.add_stream("libx264", options={"crf": "18", "preset": "veryfast"})
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, TICKS)
        sound = target.add_stream("aac", rate=48_000) if source.streams.audio else None
        for frame in pipeline.read_frames(result.item.path, None, timeline=timeline):
            height, width = (side // 2 * 2 for side in frame.image.shape[:2])  # H.264 needs even sides
            if not height or not width:
                raise ValueError("frames must be at least 2x2 pixels")
            image = Image.fromarray(frame.image[:height, :width])
            draw_verdicts(image, result, interpolate_faces(faces, frame.index), rule)
            picture = av.VideoFrame.from_image(image)
            picture.pts, picture.time_base = round(frame.time * TICKS), Fraction(1, TICKS)
            if not video.codec_context.is_open:
                video.width, video.height = width, height
            target.mux(video.encode(picture))
        target.mux(video.encode())
        return _encode_sound(source, target, sound, timeline.stream) if sound else ""


def _encode_sound(source: InputContainer, target: OutputContainer, sound: av.AudioStream, stream: int) -> str:
    """Encode the sound of `source` anew, up to where it is damaged or changes its kind; return a note."""
    video = source.streams[stream]
    start = float((video.start_time or 0) * (video.time_base or 1))  # times count from the first frame
    end, note = 0.0, ""
    try:
        for frame in source.decode(source.streams.audio[0]):
            if frame.time is not None:
                end = frame.time - start
                frame.pts, frame.time_base = round(end * TICKS), Fraction(1, TICKS)
            target.mux(sound.encode(frame))
    except (av.error.FFmpegError, ValueError) as error:
        note = f"its copy has no sound after {end:.1f} s ({pipeline.describe_error(error)})"
    target.mux(sound.encode())
    return note


def interpolate_faces(faces: dict[int, list[Face]], index: int) -> list[Face]:
    """Return the scored Faces to draw on the frame `index`, of the `faces` in each sampled frame, in order.

    Scores are those of the last sampled frame; boxes move linearly towards the same person's box in the next
    one. Before the first sampled frame and after the last, there are none.
    """
    sampled = sorted(faces)
    at = bisect.bisect_right(sampled, index) - 1
    if at < 0 or index > sampled[-1]:
        return []
    before, after = sampled[at], sampled[min(at + 1, len(sampled) - 1)]
    coming = {face.person: face for face in faces[after]}
    share = (index - before) / max(1, after - before)
    drawn = []
    for face in faces[before]:
        ends = zip(face.box, coming.get(face.person, face).box, strict=True)
        drawn.append(face._replace(box=tuple(round(a + share * (b - a)) for a, b in ends)))
    return drawn


def draw_verdicts(image: Image.Image, result: Result, faces: Sequence[Face], rule: Rule) -> None:
    """Draw the boxes, scores and verdicts of scored Faces on an image, and the Result's in the corner."""
    for face in faces:
        verdict = judge_face(face, result.item.kind, rule)
        ImageDraw.Draw(image).rectangle(face.box, outline=COLORS[verdict], width=max(2, image.height // 200))
        others = [other.box for other in faces if other is not face]
        draw_label(image, face.box, f"{face.score:.3f} {verdict}", verdict, others)
    label = result.verdict if result.score is None else f"{result.score:.3f} {result.verdict}"
    draw_label(image, (0, 0, 0, 0), label, result.verdict, [])


def draw_label(image: Image.Image, box: Box, text: str, verdict: str, others: Sequence[Box]) -> None:
    """Write white text on the verdict's colour: below a box, or where that would cover others, above it."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(11, image.height // 28))
    _, _, width, height = (round(edge) + 6 for edge in draw.textbbox((0, 0), text, font))
    x = max(0, min(box[0], image.width - width))
    below, above = (max(0, min(y, image.height - height)) for y in (box[3], box[1] - height))
    covers = any(x < r and left < x + width and t < below + height and below < b for left, t, r, b in others)
    y = above if covers else below
    draw.rectangle((x, y, x + width - 1, y + height - 1), COLORS[verdict])
    draw.text((x + 3, y + 3), text, "white", font)
