"""Meso4 and MesoInception4, the two networks of MesoNet, in Keras.

Afchar, Nozick, Yamagishi, Echizen: "MesoNet: a Compact Facial Video Forgery Detection Network",
WIFS 2018, arXiv 1809.00888. A network reads RGB faces, 256x256 with values in [0, 1], and gives each a
score of how real it looks: 1 = real, 0 = forged (deepfake or Face2Face). Label order: ("df", "real").
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

# TensorFlow reads these when it is first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it announces its search for GPUs
# It leaves oneDNN off on processors without AVX512-VNNI, where training is then 3 to 5 times slower.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import h5py
import keras
import numpy as np
from keras import KerasTensor, layers
from numpy.typing import ArrayLike

IMAGE_SIZE = 256  # pixels, both ways
LARGEST_ARRAY = 100_000  # numbers in an array of weights; the networks' largest has 16,384
PIXEL_SCALE = np.float32(1 / 255)  # from uint8 to the networks' [0, 1]
Normalization = Callable[[], layers.Layer]  # a layer's class


def _convolve(x: KerasTensor, filters: int, kernel: int, dilation: int = 1) -> KerasTensor:
    return layers.Conv2D(filters, kernel, dilation_rate=dilation, padding="same", activation="relu")(x)


def _inception(x: KerasTensor, widths: tuple[int, int, int, int]) -> KerasTensor:
    """Four branches side by side (paper, section 3.2): 1x1, then 3x3 at dilation 1, 2 and 3."""
    a, b, c, d = widths
    # The authors' files are read by order, and branches b and c have the same shapes: keep this one.
    return layers.Concatenate()(
        [
            _convolve(x, a, 1),
            _convolve(_convolve(x, b, 1), b, 3),
            _convolve(_convolve(x, c, 1), c, 3, dilation=2),
            _convolve(_convolve(x, d, 1), d, 3, dilation=3),
        ]
    )


def _pool(x: KerasTensor, size: int) -> KerasTensor:
    return layers.MaxPooling2D(size, padding="same")(x)


def _classify(x: KerasTensor) -> KerasTensor:
    x = layers.Flatten()(x)  # 8 x 8 x 16 = 1024
    x = layers.Dropout(0.1)(x)
    x = layers.Dense(16)(x)
    x = layers.LeakyReLU(negative_slope=0.1)(x)
    x = layers.Dropout(0.1)(x)
    return layers.Dense(1, activation="sigmoid")(x)


def build_meso4(normalization: Normalization = layers.BatchNormalization) -> keras.Model:
    """Meso4 (paper, figure 4): 27,977 trainable parameters. (N, 256, 256, 3) -> scores (N, 1).

    `normalization` makes its layers of batch normalisation; see training/normalization.py.
    """
    x = inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    for filters, kernel, pool in ((8, 3, 2), (8, 5, 2), (16, 5, 2), (16, 5, 4)):
        x = _pool(normalization()(_convolve(x, filters, kernel)), pool)
    return keras.Model(inputs, _classify(x), name="Meso4")


def build_meso_inception4(normalization: Normalization = layers.BatchNormalization) -> keras.Model:
    """MesoInception4 (paper, figure 5): 28,615 trainable parameters, same shapes as Meso4."""
    x = inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    for widths in ((1, 4, 4, 2), (2, 4, 4, 2)):
        x = _pool(normalization()(_inception(x, widths)), 2)
    for pool in (2, 4):
        x = _pool(normalization()(_convolve(x, 16, 5)), pool)
    return keras.Model(inputs, _classify(x), name="MesoInception4")


def scale_pixels(x: np.ndarray) -> np.ndarray:
    """Return faces as the networks take them: float32 (N, 256, 256, 3) in [0, 1].

    The dtype carries the unit: uint8 is 0-255 and is brought to [0, 1] by PIXEL_SCALE; floats must
    lie in [0, 1] already. Raises ValueError for any other dtype, range, size or rank.
    """
    x = _check_shape(x)
    if x.dtype == np.uint8:
        return x * PIXEL_SCALE
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"faces must be uint8 in 0-255 or float in [0, 1], not {x.dtype}")
    if x.size and not (x.min() >= 0 and x.max() <= 1):  # written so that NaN fails too
        raise ValueError(
            f"float faces must lie in [0, 1], not in [{x.min():g}, {x.max():g}]: divide by 255, or pass uint8"
        )
    return x.astype(np.float32)


def _check_shape(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(
            f"faces must have shape (N, {IMAGE_SIZE}, {IMAGE_SIZE}, 3), a batch of RGB images, not {x.shape}"
        )
    return x


class Classifier:
    """A network behind the interface of the authors' code. Use Meso4 or MesoInception4.

    `.model` is the plain keras.Model, compiled as published: Adam, mean squared error, accuracy.
    """

    build: ClassVar[Callable[..., keras.Model]]

    def __init__(self, learning_rate: float = 0.001) -> None:
        self.model = type(self).build()
        self.model.compile(
            optimizer=keras.optimizers.Adam(learning_rate), loss="mean_squared_error", metrics=["accuracy"]
        )

    def predict(self, x: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Return the scores, float32 (N, 1), of faces as `scale_pixels` takes them (and raises)."""
        x = _check_shape(x)
        parts = [
            self.model.predict_on_batch(scale_pixels(x[i : i + batch_size]))
            for i in range(0, len(x), batch_size)
        ]
        return np.concatenate([np.empty((0, 1), np.float32), *parts])

    def fit(self, x: np.ndarray, y: ArrayLike) -> list[float]:
        """Train one step on faces x and labels y (1 = real, 0 = forged). Returns [loss, accuracy]."""
        self.model.reset_metrics()  # Keras 3 would report the running mean of all calls so far
        return self.model.train_on_batch(scale_pixels(x), np.asarray(y))

    def get_accuracy(self, x: np.ndarray, y: ArrayLike) -> list[float]:
        """Return [loss, accuracy] on faces x and labels y (1 = real, 0 = forged), as published."""
        self.model.reset_metrics()
        return self.model.test_on_batch(scale_pixels(x), np.asarray(y))

    def load(self, path: str | Path) -> None:
        """Read weights: `.weights.h5` (Keras 3) or `.h5` (Keras 2, the authors' files included).

        A path without suffix stands for the file that is there. Raises FileNotFoundError when there
        is none, ValueError when it is damaged, no HDF5 file, or of another network.
        """
        path = _find_h5(path)
        network = identify_network(path)
        if network != self.model.name:
            raise ValueError(
                f"{path}: holds weights of {network}, not of {self.model.name}: load it with {network}()"
            )
        before, reason = self.model.get_weights(), ""
        try:
            self._bare_model().load_weights(path)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        if not reason and not all(np.isfinite(weights).all() for weights in self.model.get_weights()):
            reason = "some are not finite"
        if reason:
            self.model.set_weights(before)
            raise ValueError(f"{path}: Keras cannot read these weights ({reason}): get the file again")

    def save(self, path: str | Path) -> None:
        """Write the weights (no optimiser state) to `path`, which ends in `.weights.h5` or gets it."""
        path = Path(path)
        if not path.name.endswith(".h5"):
            path = path.with_name(path.name + ".weights.h5")
        if not path.name.endswith(".weights.h5"):
            raise ValueError(f"{path}: the name must end in .weights.h5, as Keras 3 wants it")
        self._bare_model().save_weights(path)

    def export(self, path: str | Path) -> None:
        """Write the network for LiteRT, as `.tflite`: uint8 (N, 256, 256, 3) in, scores (N, 1) out."""
        faces = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8")
        scores = self.model(layers.Rescaling(float(PIXEL_SCALE))(faces))
        keras.Model(faces, scores).export(path, format="litert", verbose=False)

    def _bare_model(self) -> keras.Model:
        return keras.Model(self.model.inputs, self.model.outputs)  # the same layers, no optimiser


class Meso4(Classifier):
    build = staticmethod(build_meso4)


class MesoInception4(Classifier):
    build = staticmethod(build_meso_inception4)


MODELS = {"Meso4": Meso4, "MesoInception4": MesoInception4}


def load_classifier(path: str | Path) -> Classifier:
    """Return the Meso4 or MesoInception4 whose weights `path` holds. Raises as `Classifier.load`."""
    path = _find_h5(path)
    classifier = MODELS[identify_network(path)]()
    classifier.load(path)
    return classifier


def identify_network(path: str | Path) -> str:
    """Return the key of MODELS whose kernels have the shapes found in the HDF5 file `path`.

    Raises ValueError when the file is not HDF5, is damaged, or fits neither network.
    """
    try:
        with h5py.File(path) as file:
            shapes = []
            file.visititems(lambda name, item: shapes.append((name, getattr(item, "shape", ()))))
            legacy = "layer_names" in file.attrs or "model_weights" in file
            config = file.attrs.get("model_config")  # of a model saved whole
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: {_describe_damage(path)}: get the file again") from error
    if legacy == str(path).endswith(".weights.h5"):  # Keras picks the reader by the suffix
        right = "Keras 2 file: name it .h5" if legacy else "Keras 3 file: name it .weights.h5"
        raise ValueError(f"{path}: the suffix does not fit the content, a {right}")
    if any(math.prod(shape) > LARGEST_ARRAY for _, shape in shapes):  # it would be read before it is refused
        raise ValueError(f"{path}: holds an array too large for these networks: get the file again")
    kernels = sorted(s for name, s in shapes if len(s) > 1 and not name.startswith("optimizer"))
    for name, network in MODELS.items():
        model = network.build()
        if kernels == sorted(tuple(w.shape) for w in model.weights if len(w.shape) > 1):
            _check_config(path, config, model)
            return name
    raise ValueError(
        f"{path}: holds {len(kernels)} kernels that fit neither {' nor '.join(MODELS)}: "
        "use weights of one of these networks"
    )


def _check_config(path: str | Path, config: str | None, model: keras.Model) -> None:
    """Raise ValueError if a file says that its model computes otherwise than `model`, of the same shapes."""
    if config is None:
        return
    try:
        found = _list_operations(json.loads(config))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its model_config cannot be read: get the file again") from error
    own = _list_operations(json.loads(model.to_json()))
    if found != own:
        others = ", ".join(sorted((found - own).keys())) or "fewer operations"
        raise ValueError(f"{path}: another network of the shapes of {model.name}: it has {others}")


def _list_operations(model: dict[str, Any]) -> Counter[str]:
    """Return how often a network's configuration names each activation, convolution and pooling."""
    found: Counter[str] = Counter()
    for layer in model["config"]["layers"]:
        kind, config = layer["class_name"], layer["config"]
        if "layers" in config:
            found += _list_operations(layer)
        if kind in ("Conv2D", "MaxPooling2D"):
            names = ("kernel_size", "pool_size", "strides", "dilation_rate", "padding")
            found[f"{kind} {[config[name] for name in names if name in config]}"] += 1
        if config.get("activation") not in (None, "linear"):
            found[str(config["activation"])] += 1
        if kind == "LeakyReLU":
            found[f"LeakyReLU {config.get('negative_slope', config.get('alpha')):.3g}"] += 1
        elif kind.endswith("LU"):
            found[kind.lower()] += 1
    return found


def _find_h5(path: str | Path) -> Path:
    path = Path(path)
    candidates = (
        [path] if path.suffix in (".h5", ".hdf5") else [Path(f"{path}{s}") for s in (".weights.h5", ".h5")]
    )
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    names = " nor ".join(str(c) for c in candidates)
    raise FileNotFoundError(f"{names}: no such file: weights/README.md says where to get weights")


def _describe_damage(path: str | Path) -> str:
    head = Path(path).read_bytes()[:256]
    if not head:
        return "empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "an HTML page, not the weights"
    if head.startswith(b"\x89HDF"):
        return "damaged or cut short"
    return "not an HDF5 file"
