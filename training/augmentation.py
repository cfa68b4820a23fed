"""Augmentation: what the authors do to faces, and what a face goes through on its way to us.

A face is changed by its seed alone, which is drawn ahead of the epoch: the same whichever thread makes
it, and in a training that was resumed. Two faces of one seed are changed alike: a forged face and its
original then differ in the forgery alone. To add a degradation, write a function like those below and
add it to DEGRADATIONS; the others keep their random numbers.
"""

import io
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from pipeline import IMAGE_SIZE

NUMBERS = 11  # that `augment` needs for a face
# the authors' augmentation, their ImageDataGenerator's arguments; rotation in degrees
ROTATION, ZOOM, BRIGHTNESS, CHANNEL_SHIFT = 15.0, 0.2, 0.2, 30 / 255
# at strength 1
MARGIN = 0.15  # a crop is made tighter, or wider, by up to this share
SHIFT = 0.06  # of the side
FILM_CHANCE = 0.5
# Of H.264 at any strength. They lose as much of a face as rate factors of 20 to 44; FaceForensics++ has 23
# and 40. Unlike a rate factor, a quantizer changes a face whatever the other faces in the film.
QUANTIZERS = (22, 48)
FILTERS = list(Image.Resampling)[1:]  # all but the nearest neighbour's
Degradation = Callable[[Image.Image, np.random.Generator, float], Image.Image]  # (face, random, strength)


def draw_numbers(seeds: np.ndarray) -> np.ndarray:
    """Return the numbers for `augment` of faces with these seeds, float32 (N, 11) in [-1, 1]."""
    numbers = [np.random.default_rng(seed).uniform(-1, 1, NUMBERS) for seed in seeds]
    return np.array(numbers, np.float32).reshape(-1, NUMBERS)


def augment(faces: Any, numbers: Any, side: int = IMAGE_SIZE, strength: float = 0.0) -> Any:
    """Return uint8 faces (N, 256, 256, 3) changed as the authors' training does: float32 in [0, 1].

    `numbers`, float32 (N, 11) in [-1, 1]: rotation; zoom across and along; flip where the fourth is negative;
    channel shift, one for all channels; brightness; which window (N, side, side, 3) is given; how much
    tighter, at a `strength` above 0, the crop is made, and how far it is shifted. Bilinear; where a face does
    not fill its square any more, its edge is repeated. Numbers of 0 give the pixels of
    `classifiers.scale_pixels`, bit for bit.
    """
    import tensorflow as tf

    from classifiers import PIXEL_SCALE

    rotation, zoom_x, zoom_y, flip, shift, brightness, across, down, margin, right, below = (
        numbers[:, i, None, None] for i in range(NUMBERS)
    )
    margin = (1 + MARGIN) ** (strength * margin)
    zoom_x, zoom_y = (1 + ZOOM * zoom_x) * margin, (1 + ZOOM * zoom_y) * margin
    zoom_x = tf.where(flip < 0, -zoom_x, zoom_x)
    angle = rotation * np.float32(np.radians(ROTATION))
    cos, sin = tf.cos(angle), tf.sin(angle)
    # (x, y): where in the face the output pixel (column, row) looks
    last = IMAGE_SIZE - 1
    middle = (tf.range(side, dtype=tf.float32) - (side - 1) / 2)[None, None]
    column = middle + tf.round(across * (IMAGE_SIZE - side) / 2)
    row = tf.transpose(middle, (0, 2, 1)) + tf.round(down * (IMAGE_SIZE - side) / 2)
    reach = IMAGE_SIZE * SHIFT * strength
    x = cos * zoom_x * column - sin * zoom_y * row + last / 2 + reach * right
    y = sin * zoom_x * column + cos * zoom_y * row + last / 2 + reach * below
    values = _look_up(faces, tf.clip_by_value(x, 0, last), tf.clip_by_value(y, 0, last)) * PIXEL_SCALE
    values = tf.clip_by_value(values + CHANNEL_SHIFT * shift[..., None], 0.0, 1.0)
    return tf.clip_by_value(values * (1 + BRIGHTNESS * brightness[..., None]), 0.0, 1.0)


def _look_up(faces: Any, x: Any, y: Any) -> Any:
    """Return the faces' values at x and y, (N, h, w) each: float32 (N, h, w, 3), bilinear."""
    import tensorflow as tf

    left, top = tf.minimum(tf.floor(x), IMAGE_SIZE - 2), tf.minimum(tf.floor(y), IMAGE_SIZE - 2)
    corner = tf.cast(top, tf.int32) * IMAGE_SIZE + tf.cast(left, tf.int32)
    pixels = tf.reshape(faces, (-1, IMAGE_SIZE * IMAGE_SIZE, 3))
    x, y = (x - left)[..., None], (y - top)[..., None]
    ul, ur, ll, lr = (  # upper left to lower right
        tf.cast(tf.gather(pixels, corner + offset, batch_dims=1), tf.float32)
        for offset in (0, 1, IMAGE_SIZE, IMAGE_SIZE + 1)
    )
    return (ul * (1 - x) + ur * x) * (1 - y) + (ll * (1 - x) + lr * x) * y


def scale(face: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    """Return a face made smaller and larger again."""
    side = max(8, round(face.width * 0.35 ** (min(strength, 2.0) * random.random())))
    down, up = (FILTERS[index] for index in random.integers(len(FILTERS), size=2))
    return face.resize((side, side), down).resize(face.size, up)


def blur(face: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    return face.filter(ImageFilter.GaussianBlur(strength * random.uniform(0.3, 1.5)))  # pixels


def add_noise(face: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    deviation = np.float32(strength * random.uniform(0, 8))  # grey levels
    noisy = np.asarray(face) + deviation * random.standard_normal((*face.size, 3), np.float32)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def compress(face: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    """Return a face as it comes out of a JPEG file."""
    worst = max(5, 100 - 60 * strength)
    file = io.BytesIO()
    face.save(file, "JPEG", quality=round(random.uniform(worst, 100)))
    return Image.open(file).convert("RGB")


# in this order, with the share of the faces at strength 1
DEGRADATIONS: list[tuple[Degradation, float]] = [(scale, 0.3), (blur, 0.1), (add_noise, 0.1), (compress, 0.5)]


def degrade(faces: np.ndarray, seeds: Sequence[int] | np.ndarray, strength: float) -> np.ndarray:
    """Return faces, uint8 (N, side, side, 3), after H.264 and the DEGRADATIONS, each by chance.

    The faces that get H.264 are one film. Higher `strength` makes each change stronger, except H.264; below 1
    it also makes each change rarer. At 0 the faces come back as they were. The side must be even.
    """
    often = min(strength, 1.0)
    found = faces.copy()
    randoms = [seed_change(seed, film) for seed in seeds]
    filmed = [index for index, random in enumerate(randoms) if random.random() < often * FILM_CHANCE]
    if filmed:
        found[filmed] = film(found[filmed], int(randoms[filmed[0]].integers(*QUANTIZERS, endpoint=True)))
    for index, seed in enumerate(seeds):
        for change, chance in DEGRADATIONS:
            random = seed_change(seed, change)
            if random.random() < often * chance:
                found[index] = np.asarray(change(Image.fromarray(found[index]), random, strength))
    return found


def seed_change(seed: int, change: Callable[..., Any]) -> np.random.Generator:
    """Return the random numbers of one change of the face with this seed."""
    return np.random.default_rng((seed, zlib.crc32(change.__name__.encode())))


def film(faces: np.ndarray, quantizer: int) -> np.ndarray:
    """Return faces, uint8 (N, height, width, 3) RGB, both even, as the key frames of an H.264 film.

    One film is a third faster than a film for each face. A quantizer of 0 is best, 51 worst.
    """
    import av

    coder, decoder = av.CodecContext.create("libx264", "w"), av.CodecContext.create("h264", "r")
    coder.height, coder.width = faces.shape[1:3]
    coder.pix_fmt, coder.time_base = "yuv420p", Fraction(1, 25)
    coder.thread_count = decoder.thread_count = 1
    coder.options = {"qp": str(quantizer), "g": "1", "preset": "veryfast", "tune": "zerolatency"}
    packets = []
    for face in faces:
        packets += coder.encode(av.VideoFrame.from_ndarray(face, "rgb24").reformat(format="yuv420p"))
    packets += coder.encode(None)
    frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
