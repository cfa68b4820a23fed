"""Weights files, their cards, and the two commands in weights/."""

import functools
import http.server
import json
import re
import shutil
import threading

import numpy as np
import pytest
from conftest import ROOT, run_script

import pipeline
from classifiers import Meso4, load_classifier
from weights import DEFAULT, Rule, compute_sha256, find_weights, load_predictor, write_weights
from weights.scoring import score

SHIPPED = sorted(path.stem for path in (ROOT / "weights").glob("*.json"))

# of test_images: df/biden, collins, hopper, obama, then real/
GOLDEN = {
    "Meso4": [0.0004, 0.2432, 0.0, 0.0, 0.9414, 0.9994, 1.0, 0.9942],
    "MesoInception4": [0.0246, 0.4268, 0.0006, 0.0114, 0.9739, 0.9801, 1.0, 0.9956],
    "Meso4_DF": [0.0008, 0.0058, 0.0072, 0.005, 0.3991, 0.9917, 0.7889, 0.9995],
    "MesoInception_DF": [0.0021, 0.0032, 0.0068, 0.0046, 0.3973, 0.9792, 0.7543, 0.995],
    "MesoInception_F2F": [0.8265, 0.9072, 0.9997, 0.4633, 0.9952, 0.99, 1.0, 0.9999],
    "Meso4_F2F": [0.6447, 0.5411, 0.9996, 0.4759, 0.9972, 0.8583, 1.0, 1.0],
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_give_their_golden_scores(name):
    scores = list(score([ROOT / "test_images"], name))
    assert [s.score for s in scores] == pytest.approx(GOLDEN[name], abs=1e-4)
    if name == DEFAULT:
        assert all((s.verdict == "real") == (s.item.label == "real") for s in scores)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_whole_and_both_forms_equal(name, noise, gradient):
    faces = np.concatenate([noise, gradient])
    predictions = []
    for suffix in (".tflite", ".weights.h5"):
        weights = find_weights(name + suffix)
        assert weights.path == ROOT / "weights" / (name + suffix)
        predictions.append(load_predictor(weights)(faces)[:, :1])  # a .tflite also says what experts say
        assert load_predictor(weights)(faces[:0]).shape == (0, 1)
    np.testing.assert_allclose(*predictions, atol=5e-6)  # sums in another order
    card = json.loads((ROOT / f"weights/{name}.json").read_text())
    assert card["labels"] == ["df", "real"]
    for own in (card.get("experts") or {"": card}).values():
        assert {"trained_on", "commit"} <= set(own)
    assert {"validation", "threshold", "resampling"} <= set(card)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    write_weights(Meso4(), folder / "net", {"resampling": "bilinear", "threshold": 0.25})
    return folder


def test_a_card_goes_with_its_files_and_keras_weights_go_without(tmp_path, fresh):
    for name in ("net", "net.tflite", "net.weights.h5"):
        assert find_weights(fresh / name)[1:4] == ("Meso4", pipeline.View("bilinear"), Rule(0.25))
    assert find_weights(fresh / "net").path.name == "net.tflite"
    for name in ("mine.weights.h5", "mine.h5"):  # used as published
        shutil.copy(fresh / "net.weights.h5", tmp_path / name)
        assert find_weights(tmp_path / name)[1:] == ("", pipeline.View("nearest", 1.3), Rule(), {})
    shutil.copy(fresh / "net.tflite", tmp_path / "lite.tflite")
    with pytest.raises(FileNotFoundError, match=r"lite\.tflite: its card lite\.json is missing"):
        find_weights(tmp_path / "lite")


def test_a_mirrored_view_gives_a_face_and_its_mirror_image_the_same_score(noise):
    weights = find_weights("Meso4_DF")
    plain = load_predictor(weights)
    mirrored = load_predictor(weights._replace(view=weights.view._replace(mirrored=True)))
    np.testing.assert_allclose(mirrored(noise), (plain(noise) + plain(noise[:, :, ::-1].copy())) / 2)
    np.testing.assert_array_equal(mirrored(noise), mirrored(noise[:, :, ::-1]))


def test_damage_and_mixed_up_cards_are_seen(tmp_path, fresh):
    def spoil(name, content):
        shutil.copytree(fresh, tmp_path, dirs_exist_ok=True)
        (tmp_path / name).write_bytes(content)

    tflite = (fresh / "net.tflite").read_bytes()
    card = json.loads((fresh / "net.json").read_text())
    for content in (tflite[:5000], b"", b"<html>", b"version https://git-lfs.github.com/spec/v1"):
        spoil("net.tflite", content)
        with pytest.raises(ValueError, match=r"net\.tflite: damaged, or not the file of net\.json"):
            find_weights(tmp_path / "net")
    changes = (
        {"threshold": "x"},
        {"threshold": [1]},
        {"forgeries": [5]},
        {"experts": 5},
        {"sha256": "x"},
        {"calibration": {"face": 5}},
    )
    contents = [json.dumps(card | change).encode() for change in changes]
    for content in (b"", b"[]", b"{}", b"null", b"[" * 100_000, *contents):
        spoil("net.json", content)
        with pytest.raises(ValueError, match=r"net\.json: not a card of net\.tflite") as caught:
            find_weights(tmp_path / "net")
        assert "\n" not in str(caught.value)
    for change, reason in (
        ({"resampling": "../x"}, r"resampling '\.\./x', must be one of"),
        ({"zoom": 3}, r"zoom 3\.0, must be from 0\.5 to 1\.3"),
        ({"mirrored": "no"}, "mirrored 'no', must be true or false"),
        ({"threshold": float("nan")}, "threshold nan, must be from 0 to 1"),
    ):
        spoil("net.json", json.dumps(card | change).encode())
        with pytest.raises(ValueError, match=reason):
            find_weights(tmp_path / "net")


@pytest.fixture
def server(shared, tmp_path):
    """Folder of the authors' files, served at an address."""
    folder = tmp_path / "served"
    shutil.copytree(shared / "published_weights", folder)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download_verifies_and_keeps_only_what_is_right(server, shared, tmp_path):
    folder, address = server
    whole = (folder / "Meso4_F2F.h5").read_bytes()
    (folder / "Meso4_F2F.h5").write_bytes(whole[:-1] + b"?")
    (folder / "MesoInception_DF.h5").unlink()
    (folder / "MesoInception_F2F.h5").write_bytes(whole[:1000])
    command = ("weights/download.py", "--output", tmp_path / "new", "--address")
    done = run_script(*command, address, status=1)
    names = ["Meso4_DF.h5", "Meso4_DF.json", "Meso4_DF.tflite", "Meso4_DF.weights.h5"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    assert find_weights(tmp_path / "new/Meso4_DF")[1:4] == ("Meso4", pipeline.View("nearest"), Rule())
    assert "Meso4_DF.h5: SHA-256 as expected" in done.stdout
    for name, reason in (
        ("Meso4_F2F", r"SHA-256 [0-9a-f]{64} must be bcfda.*: not kept"),
        ("MesoInception_DF", "not found"),
        ("MesoInception_F2F", "SHA-256 .* must be d4533a"),
    ):
        assert re.search(rf"^download\.py: {name}\.h5: .*{reason}", done.stderr, re.MULTILINE | re.IGNORECASE)
    assert run_script(*command, "http://127.0.0.1:9", status=1).stderr.count("refused") == 3  # no network
    shutil.copytree(shared / "published_weights", folder, dirs_exist_ok=True)
    done = run_script(*command, address)
    assert done.stdout.count("as expected") == 4
    readme = (ROOT / "weights/README.md").read_text()
    for path in (shared / "published_weights").glob("*.h5"):
        assert f"| `{path.name}` | {compute_sha256(path)} |" in readme


def test_other_networks_of_the_same_shapes_are_refused(shared, tmp_path):
    with pytest.raises(ValueError, match=r"elu\.h5: another network of such shapes: it has elu"):
        load_classifier(shared / "inputs/elu.h5")
    classifier = Meso4()
    classifier.model.save(tmp_path / "whole.h5")  # the same network, saved whole, is none other
    load_classifier(tmp_path / "whole.h5")


def test_names_and_suffixes_of_weights(shared, tmp_path, noise):
    source = shared / "published_weights/Meso4_DF.h5"
    shutil.copy(source, tmp_path / "mine.hdf5")
    weights = find_weights(tmp_path / "mine.hdf5")
    np.testing.assert_allclose(load_predictor(weights)(noise), load_predictor(find_weights(source))(noise))
    for name in ("mine.keras", "mine.H5", "mine.pt"):
        shutil.copy(source, tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}: weights must be a \.tflite, \.weights\.h5, \.h5"):
            find_weights(tmp_path / name)
    with pytest.raises(
        FileNotFoundError, match="has Meso4, Meso4_DF, Meso4_F2F, MesoInception4, MesoInception_DF"
    ):
        find_weights("Meso5")
    with pytest.raises(FileNotFoundError, match=r"^Meso4_DF_F2F: Meso4 replaced it: --weights Meso4$"):
        find_weights("Meso4_DF_F2F")
