"""Meso4 and MesoInception4, the two networks of MesoNet, in Keras.

Afchar, Nozick, Yamagishi, Echizen: "MesoNet: a Compact Facial Video Forgery Detection Network",
WIFS 2018, arXiv 1809.00888. A network reads RGB faces, 256x256 with values in [0, 1], and gives each a
score of how real it looks: 1 = real, 0 = forged (deepfake or Face2Face). Label order: ("df", "real").
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

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
PIXEL_SCALE = np.float32(1 / 255)  # from uint8 to the networks' [0, 1]
ACTIVATIONS = {"relu", "leakyrelu", "linear", "sigmoid"}  # of a model saved whole, all that may occur


def _convolve(x: KerasTensor, filters: int, kernel: int, dilation: int = 1) -> KerasTensor:
    return layers.Conv2D(filters, kernel, dilation_rate=dilation, padding="same", activation="relu")(x)


def _inception(x: KerasTensor, widths: tuple[int, int, int, int]) -> KerasTensor:
    """Four branches side by side (paper, section 3.2): 1x1, then 3x3 at dilation 1, 2 and 3."""
    # The authors' files are read by order, and two of the branches have the same shapes: keep this one.
    branches = [_convolve(x, widths[0], 1)]
    for dilation, width in enumerate(widths[1:], 1):
        branches.append(_convolve(_convolve(x, width, 1), width, 3, dilation))
    return layers.Concatenate()(branches)


def _pool(x: KerasTensor, size: int) -> KerasTensor:
    return layers.MaxPooling2D(size, padding="same")(layers.BatchNormalization()(x))


def _classify(x: KerasTensor) -> KerasTensor:
    x = layers.Flatten()(x)  # 8 x 8 x 16 = 1024
    x = layers.Dropout(0.5)(x)
    x = layers.Dense(16)(x)
    x = layers.LeakyReLU(negative_slope=0.1)(x)
    x = layers.Dropout(0.5)(x)
    return layers.Dense(1, activation="sigmoid")(x)


def build_meso4() -> keras.Model:
    """Meso4 (paper, figure 4): 27,977 trainable parameters. (N, 256, 256, 3) -> scores (N, 1)."""
    faces = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    return keras.Model(faces, _meso4(faces), name="Meso4")


def _meso4(x: KerasTensor) -> KerasTensor:
    for filters, kernel, pool in ((8, 3, 2), (8, 5, 2), (16, 5, 2), (16, 5, 4)):
        x = _pool(_convolve(x, filters, kernel), pool)
    return _classify(x)


def build_meso4_experts() -> keras.Model:
    """Four Meso4, each for one kind of forgery. A face is as real as all of them say: the product."""
    faces = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    return keras.Model(faces, layers.Multiply()([_meso4(faces) for _ in range(4)]), name="Meso4Experts")


def build_meso_inception4() -> keras.Model:
    """MesoInception4 (paper, figure 5): 28,615 trainable parameters, same shapes as Meso4."""
    x = inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    for widths in ((1, 4, 4, 2), (2, 4, 4, 2)):
        x = _pool(_inception(x, widths), 2)
    for pool in (2, 4):
        x = _pool(_convolve(x, 16, 5), pool)
    return keras.Model(inputs, _classify(x), name="MesoInception4")


def scale_pixels(x: np.ndarray) -> np.ndarray:
    """Return faces as `.model` takes them, float32 (N, 256, 256, 3) in [0, 1]: `x = scale_pixels(faces)`.

    They are uint8, 0-255, or floats in [0, 1]. Raises ValueError for any other dtype, range, size or rank.
    """
    x = _check_shape(x)
    if x.dtype == np.uint8:
        return x * PIXEL_SCALE
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"faces must be uint8 in 0-255 or float in [0, 1], not {x.dtype}")
    if x.size and not (x.min() >= 0 and x.max() <= 1):  # written so that NaN fails too
        found = f"[{x.min():g}, {x.max():g}]"
        raise ValueError(f"float faces must lie in [0, 1], not in {found}: divide by 255, or pass uint8")
    return x.astype(np.float32)


def _check_shape(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(f"faces must be a batch of RGB images, shape (N, 256, 256, 3), not {x.shape}")
    return x


class Classifier:
    """A network behind the interface of the authors' code. Example: `classifier = Meso4()`.

    `.model` is the plain keras.Model, compiled as published: Adam, mean squared error, accuracy.
    """

    build: ClassVar[Callable[[], keras.Model]]

    def __init__(self, learning_rate: float = 0.001) -> None:
        self.model = type(self).build()
        self.model.compile(keras.optimizers.Adam(learning_rate), "mean_squared_error", metrics=["accuracy"])

    def predict(self, x: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Return the scores, float32 (N, 1), of faces: `called_deepfake = classifier.predict(faces) < 0.5`.

        Takes faces, and raises, as `scale_pixels`.
        """
        x = _check_shape(x)
        batches = (scale_pixels(x[i : i + batch_size]) for i in range(0, len(x), batch_size))
        return np.concatenate([np.empty((0, 1), np.float32), *map(self.model.predict_on_batch, batches)])

    def fit(self, x: np.ndarray, y: ArrayLike) -> list[float]:
        """Train one step: `loss, accuracy = classifier.fit(faces, [0, 1])`; label 1 = real, 0 = forged."""
        self.model.reset_metrics()  # Keras 3 would report the running mean of all calls so far
        return self.model.train_on_batch(scale_pixels(x), np.asarray(y))

    def get_accuracy(self, x: np.ndarray, y: ArrayLike) -> list[float]:
        """Measure without training: `loss, accuracy = classifier.get_accuracy(faces, [0, 1])`."""
        self.model.reset_metrics()
        return self.model.test_on_batch(scale_pixels(x), np.asarray(y))

    def load(self, path: str | Path) -> None:
        """Read weights: `classifier.load("weights/Meso4_DF.weights.h5")`, or the authors' `.h5`.

        Raises FileNotFoundError, or ValueError when the file is damaged, not HDF5, or of another network.
        """
        if not isinstance(self, MODELS[network := identify_network(path)]):
            own = type(self).__name__
            raise ValueError(f"{path}: holds weights of {network}, not of {own}: load it with {network}()")
        before = self.model.get_weights()
        try:
            self._bare_model().load_weights(path)
            if not all(np.isfinite(weights).all() for weights in self.model.get_weights()):
                raise ValueError("some are not finite")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
            self.model.set_weights(before)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: Keras cannot read it ({reason}): get the file again") from error

    def save(self, path: str | Path) -> None:
        """Write the weights, without the optimiser's state: `classifier.save("mine.weights.h5")`."""
        self._bare_model().save_weights(path)

    def export(self, path: str | Path) -> None:
        """Write the network for LiteRT, which takes uint8 faces: `classifier.export("mine.tflite")`."""
        faces = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8")
        scores = keras.Model(self.model.inputs, self._columns())(layers.Rescaling(float(PIXEL_SCALE))(faces))
        keras.Model(faces, scores).export(path, format="litert", verbose=False)

    def _columns(self) -> KerasTensor:
        return self.model.outputs[0]

    def _bare_model(self) -> keras.Model:
        return keras.Model(self.model.inputs, self.model.outputs)  # the same layers, no optimiser


class Meso4(Classifier):
    build = staticmethod(build_meso4)


class MesoInception4(Classifier):
    build = staticmethod(build_meso_inception4)


class Meso4Experts(Classifier):
    """Exported, it gives each expert's score too: scores (N, 5)."""

    build = staticmethod(build_meso4_experts)

    def _columns(self) -> KerasTensor:
        return layers.Concatenate()([self.model.output, *self.model.layers[-1].input])


# A network added here can be trained, exported and scored; training/df_CNN.py --model offers it.
MODELS = {"Meso4": Meso4, "MesoInception4": MesoInception4, "Meso4Experts": Meso4Experts}


def load_classifier(path: str | Path) -> Classifier:
    """Return the network whose weights a file holds: `load_classifier("mine.weights.h5")`."""
    classifier = MODELS[identify_network(path)]()
    classifier.load(path)
    return classifier


def identify_network(path: str | Path) -> str:
    """Return the key of MODELS whose kernels have the shapes found in an HDF5 file. Raises as `load`."""
    try:
        with h5py.File(path) as file:
            shapes = list[tuple[str, tuple[int, ...]]]()
            file.visititems(lambda name, item: shapes.append((name, getattr(item, "shape", ()))))
            legacy = "layer_names" in file.attrs or "model_weights" in file
            config = str(file.attrs.get("model_config", ""))  # of a model saved whole
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file: weights/README.md says where to get it") from None
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: damaged, or not an HDF5 file: get it again") from error
    if legacy == str(path).endswith(".weights.h5"):  # Keras picks the reader by the suffix
        right = "Keras 2 file: name it .h5" if legacy else "Keras 3 file: name it .weights.h5"
        raise ValueError(f"{path}: the suffix does not fit the content, a {right}")
    found = re.findall(r'"activation": "(\w+)"|"class_name": "(\w*LU)"', config)
    if others := {"".join(names).lower() for names in found} - ACTIVATIONS:
        raise ValueError(f"{path}: another network of such shapes: it has {', '.join(sorted(others))}")
    kernels = sorted(s for name, s in shapes if len(s) > 1 and not name.startswith("optimizer"))
    for name, network in MODELS.items():
        if kernels == sorted(tuple(w.shape) for w in network.build().weights if len(w.shape) > 1):
            return name
    raise ValueError(f"{path}: holds {len(kernels)} kernels that fit none of {', '.join(MODELS)}")
