"""Augmentation: what the authors do to faces, and what a face goes through on its way to us.

All random numbers come from the face's seed, so a resumed training draws the same. Two faces of one
seed are changed alike: a forged face and its original then differ in the forgery alone.
"""

import io
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from classifiers import IMAGE_SIZE, PIXEL_SCALE  # first: it sets what TensorFlow reads when it is imported

# isort: split
import av
import numpy as np
import tensorflow as tf
from PIL import Image, ImageFilter

# the authors' augmentation, their ImageDataGenerator's arguments; rotation in degrees
ROTATION, ZOOM, BRIGHTNESS, CHANNEL_SHIFT = 15.0, 0.2, 0.2, 30 / 255
MARGIN, SHIFT = 0.15, 0.06  # at strength 1: how much tighter or wider a crop is, how much of its side moved
QUANTIZERS = (22, 48)  # of H.264, as rate factors of 20 to 44 (FaceForensics++: 23, 40)
FILTERS = list(Image.Resampling)[1:]  # all but the nearest neighbour's
CHANGES = ("zoom", "flip", "rotate", "margin", "shift", "channels", "brightness")  # see `augment`


def draw_numbers(seeds: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the numbers for `augment` of faces with these seeds, float32 (N, changes, 2) in [-1, 1]."""
    drawn = [seed_change(seed, "augment").uniform(-1, 1, (len(CHANGES), 2)) for seed in seeds]
    return np.array(drawn, np.float32)


def augment(faces: Any, numbers: Any, strength: float = 0.0) -> Any:
    """Return uint8 faces (N, 256, 256, 3) changed as the authors' training does: float32 in [0, 1].

    Bilinear; where a face does not fill its square any more, its edge is repeated. Numbers of 0 give exactly
    what `classifiers.scale_pixels` gives. `strength` is that of degradations: how far the crop is moved.
    """
    numbers = tf.transpose(numbers, (1, 2, 0))[..., None, None]  # two of each change, for (N, height, width)
    zoom, flip, turn, margin, shift, channels, brightness = tf.unstack(numbers)
    middle = (IMAGE_SIZE - 1) / 2
    # where in a face the pixels of the output look, from the middle of both
    x = (tf.range(IMAGE_SIZE, dtype=tf.float32) - middle)[None, None]
    y = tf.transpose(x, (0, 2, 1))
    x, y = x * (1 + ZOOM * zoom[0]), y * (1 + ZOOM * zoom[1])
    x = tf.where(flip[0] < 0, -x, x)
    sine, cosine = tf.sin(turn[0] * np.radians(ROTATION)), tf.cos(turn[0] * np.radians(ROTATION))
    x, y = cosine * x - sine * y, sine * x + cosine * y
    wider, reach = (1 + MARGIN) ** (strength * margin[0]), IMAGE_SIZE * SHIFT * strength
    x, y = x * wider + reach * shift[0], y * wider + reach * shift[1]
    values = _look_up(faces, *(tf.clip_by_value(place + middle, 0, 2 * middle) for place in (x, y)))
    values = tf.clip_by_value(values * PIXEL_SCALE + CHANNEL_SHIFT * channels[0, ..., None], 0, 1)
    return tf.clip_by_value(values * (1 + BRIGHTNESS * brightness[0, ..., None]), 0, 1)


def _look_up(faces: Any, x: Any, y: Any) -> Any:
    """Return the faces' values at x and y, (N, h, w) each: float32 (N, h, w, 3), bilinear."""
    left, top = tf.minimum(tf.floor(x), IMAGE_SIZE - 2), tf.minimum(tf.floor(y), IMAGE_SIZE - 2)
    corner = tf.cast(top, tf.int32) * IMAGE_SIZE + tf.cast(left, tf.int32)
    pixels = tf.reshape(faces, (-1, IMAGE_SIZE * IMAGE_SIZE, 3))
    x, y = (x - left)[..., None], (y - top)[..., None]
    ul, ur, ll, lr = (  # upper left to lower right
        tf.cast(tf.gather(pixels, corner + offset, batch_dims=1), tf.float32)
        for offset in (0, 1, IMAGE_SIZE, IMAGE_SIZE + 1)
    )
    return (ul * (1 - x) + ur * x) * (1 - y) + (ll * (1 - x) + lr * x) * y


def film(face: Image.Image, random: np.random.Generator, _: float) -> Image.Image:
    """Return a face, its sides even, as it comes out of H.264."""
    coder, decoder = av.CodecContext.create("libx264", "w"), av.CodecContext.create("h264", "r")
    coder.width, coder.height = face.size
    coder.pix_fmt, coder.time_base = "yuv420p", Fraction(1, 25)
    coder.thread_count = decoder.thread_count = 1
    quantizer = random.integers(*QUANTIZERS, endpoint=True)
    coder.options = {"qp": str(quantizer), "preset": "veryfast", "tune": "zerolatency"}
    frame = av.VideoFrame.from_image(face).reformat(format="yuv420p")
    packets = [*coder.encode(frame), *coder.encode(None), None]
    return next(frame.to_image() for packet in packets for frame in decoder.decode(packet))


def scale(face: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    """Return a face made smaller and larger again."""
    side = max(8, round(face.width * 0.35 ** (min(strength, 2.0) * random.random())))
    down, up = (FILTERS[index] for index in random.integers(len(FILTERS), size=2))
    return face.resize((side, side), down).resize(face.size, up)


def blur(face: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    return face.filter(ImageFilter.GaussianBlur(strength * random.uniform(0.3, 1.5)))  # pixels


def compress(face: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    """Return a face as it comes out of a JPEG file."""
    worst = max(5, 100 - 60 * strength)
    file = io.BytesIO()
    face.save(file, "JPEG", quality=round(random.uniform(worst, 100)))
    return Image.open(file).convert("RGB")


# (face, random, strength) -> face, in this order, with the share of the faces at strength 1
DEGRADATIONS = [(film, 0.5), (scale, 0.3), (blur, 0.1), (compress, 0.5)]


def degrade(faces: np.ndarray, seeds: Sequence[int] | np.ndarray, strength: float) -> np.ndarray:
    """Return faces, uint8 (N, side, side, 3), the side even, after DEGRADATIONS, each by chance.

    A higher `strength` makes all but H.264 stronger; below 1 it makes each rarer, and at 0 there are none.
    """
    found = faces.copy()
    for index, seed in enumerate(seeds):
        for change, chance in DEGRADATIONS:
            random = seed_change(seed, change.__name__)
            if random.random() < min(strength, 1.0) * chance:
                found[index] = np.asarray(change(Image.fromarray(found[index]), random, strength))
    return found


def seed_change(seed: int, change: str) -> np.random.Generator:
    """Return the random numbers of one change of the face with this seed."""
    return np.random.default_rng((seed, zlib.crc32(change.encode())))
