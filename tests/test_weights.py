"""Weights files, their cards, and the two commands in weights/."""

import http.server
import json
import re
import shutil
import threading

import numpy as np
import pytest
from conftest import ROOT, run_script

import pipeline
import weights as weights_module
from classifiers import Meso4, load_classifier
from weights import DEFAULT, Rule, find_weights, load_predictor, write_weights
from weights.scoring import score

SHIPPED = sorted(path.stem for path in (ROOT / "weights").glob("*.json"))


# of test_images: df/biden, collins, hopper, obama, then real/
GOLDEN = {
    "Meso4_DF_F2F": [0.0112, 0.0328, 0.0002, 0.001, 0.7415, 0.9956, 0.9679, 0.8563],
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
        predictions.append(load_predictor(weights)(faces))
    np.testing.assert_allclose(*predictions, atol=5e-6)  # sums in another order
    card = json.loads((ROOT / f"weights/{name}.json").read_text())
    assert card["labels"] == ["df", "real"]
    assert {"trained_on", "validation", "threshold", "resampling", "commit"} <= set(card)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    write_weights(Meso4(), folder / "net", {"resampling": "bilinear", "threshold": 0.25})
    return folder


def test_card_goes_with_its_files(fresh):
    for name in ("net", "net.tflite", "net.weights.h5"):
        weights = find_weights(fresh / name)
        assert weights[1:4] == ("Meso4", pipeline.View("bilinear"), Rule(0.25))
    assert find_weights(fresh / "net").path.name == "net.tflite"


def test_without_card_only_keras_weights_are_used_as_published(tmp_path, fresh):
    for name, as_name in (("net.weights.h5", "mine.weights.h5"), ("net.weights.h5", "mine.h5")):
        (tmp_path / as_name).write_bytes((fresh / name).read_bytes())
        assert find_weights(tmp_path / as_name)[1:] == ("", pipeline.View("nearest", 1.3), Rule(), {})
    (tmp_path / "lite.tflite").write_bytes((fresh / "net.tflite").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"lite\.tflite: its card lite\.json is missing"):
        find_weights(tmp_path / "lite")


def test_weights_that_were_replaced_say_by_which(monkeypatch):
    monkeypatch.setitem(weights_module.REPLACED, "Meso3", "Meso4_DF")
    with pytest.raises(FileNotFoundError, match=r"^Meso3: Meso4_DF replaced it: --weights Meso4_DF$"):
        find_weights("Meso3")


def test_damage_and_mixed_up_cards_are_seen(tmp_path, fresh):
    def spoil(name, content):
        for path in fresh.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / name).write_bytes(content)

    tflite = (fresh / "net.tflite").read_bytes()
    card = json.loads((fresh / "net.json").read_text())
    for content in (tflite[:5000], b"", b"<html>", b"version https://git-lfs.github.com/spec/v1"):
        spoil("net.tflite", content)
        with pytest.raises(ValueError, match=r"net\.tflite: damaged, or not the file of net\.json"):
            find_weights(tmp_path / "net")
    changes = ({"threshold": "x"}, {"forgeries": [5]}, {"calibration": {"kinds": 5}})
    for content in (b"", b"[]", b"{}", *(json.dumps(card | change).encode() for change in changes)):
        spoil("net.json", content)
        with pytest.raises(ValueError, match=r"net\.json: not a card of net\.tflite") as caught:
            find_weights(tmp_path / "net")
        assert "\n" not in str(caught.value)
    spoil("net.json", json.dumps(card | {"resampling": "magic"}).encode())
    with pytest.raises(ValueError, match=r"resampling 'magic', must be one of"):
        find_weights(tmp_path / "net")
    spoil("net.json", json.dumps(card | {"zoom": 3}).encode())
    with pytest.raises(ValueError, match=r"zoom 3\.0, must be from 0\.5 to 1\.3"):
        find_weights(tmp_path / "net")


def test_convert(shared, tmp_path):
    source = shared / "published_weights/MesoInception_F2F.h5"
    done = run_script(
        "weights/convert.py", source, "--name", tmp_path / "new", "--threshold", "0.4", "--zoom", "0.9"
    )
    assert done.stderr == ""
    names = ["new.json", "new.tflite", "new.weights.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    converted = find_weights(tmp_path / "new")
    assert converted[1:4] == ("MesoInception4", pipeline.View("nearest", 0.9), Rule(0.4))


def test_average(tmp_path):
    names = ("Meso4_DF", "Meso4_F2F")
    done = run_script("weights/average.py", *names, "--share", "0.25", "--name", tmp_path / "x")
    assert "x.weights.h5, .tflite and .json" in done.stdout
    one, two, average = (load_classifier(f"{name}.weights.h5").model.get_weights() for name in (
        ROOT / "weights/Meso4_DF", ROOT / "weights/Meso4_F2F", tmp_path / "x"))  # fmt: skip
    for a, b, c in zip(one, two, average, strict=True):
        np.testing.assert_allclose(c, 0.75 * a + 0.25 * b, atol=1e-6)
    card = json.loads((tmp_path / "x.json").read_text())
    assert [part["share"] for part in card["average_of"]] == [0.75, 0.25]
    assert card["resampling"] == "bilinear"
    for arguments, reason in (
        ((*names, "--name", tmp_path / "x"), "already exists: choose another name"),
        (
            ("Meso4_DF", "MesoInception_DF", "--name", tmp_path / "y"),
            "its card must name Meso4 with bilinear",
        ),
        (("Meso4_DF", "none", "--name", tmp_path / "y"), "no such weights"),
    ):
        assert reason in run_script("weights/average.py", *arguments, status=1).stderr


def test_convert_refuses_what_is_no_weights(tmp_path, fresh):
    (tmp_path / "page.h5").write_text("<!doctype html>")
    for arguments, status, reason in (
        (["page.h5"], 1, r"convert\.py: .*page\.h5: damaged, or not an HDF5 file: .*\n"),
        (["gone.h5"], 2, r".*gone\.h5.*\n"),
        (["page.h5", "--threshold", "2"], 2, r".*threshold 2, must be from 0 to 1\n"),
        (["page.h5", "--zoom", "9"], 2, r".*zoom 9\.0, must be from 0\.5 to 1\.3\n"),
        ([fresh / "net.weights.h5"], 2, r".*net\.json already exists: .*\n"),
    ):
        done = run_script("weights/convert.py", *arguments, cwd=tmp_path, status=status)
        assert re.fullmatch(reason, done.stderr), done.stderr


@pytest.fixture
def server(shared):
    """Serve the authors' files at an address; `server.faults` maps a name to what goes wrong."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            fault = server.faults.get(name)
            content = (shared / "published_weights" / name).read_bytes()
            if fault == "missing":
                self.send_error(404)
                return
            if fault == "hash":
                content = content[:-1] + b"?"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:1000] if fault == "cut" else content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.faults = {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_download_verifies_and_keeps_only_what_is_right(server, tmp_path):
    server.faults = {"Meso4_F2F.h5": "hash", "MesoInception_DF.h5": "missing", "MesoInception_F2F.h5": "cut"}
    done = run_script("weights/download.py", "--address", server.address, "--output", tmp_path, status=1)
    assert [path.name for path in tmp_path.iterdir()] == ["Meso4_DF.h5"]
    assert "Meso4_DF.h5: downloaded" in done.stdout
    for name, reason in (
        ("Meso4_F2F", r"SHA-256 [0-9a-f]{64} must be bcfda.*: not kept"),
        ("MesoInception_DF", "Not Found"),
        ("MesoInception_F2F", "SHA-256 .* must be d4533a"),
    ):
        assert re.search(rf"^download\.py: {name}\.h5: .*{reason}", done.stderr, re.MULTILINE)
    server.faults = {}
    done = run_script("weights/download.py", "--address", server.address, "--output", tmp_path)
    assert done.stdout.count("downloaded") == 3
    assert done.stdout.count("already there") == 1


def test_download_without_network(tmp_path):
    address = ("--address", "http://127.0.0.1:9", "--output", tmp_path)
    assert run_script("weights/download.py", *address, status=1).stderr.count("refused") == 4


def test_readme_of_weights_tells_what_download_checks():
    text = (ROOT / "weights/README.md").read_text()
    source = (ROOT / "weights/download.py").read_text()
    for name, digest in re.findall(r'"(\w+\.h5)": "([0-9a-f]{64})"', source):
        assert f"| `{name}` | {digest} |" in text


def test_other_networks_of_the_same_shapes_are_refused(shared, tmp_path):
    with pytest.raises(ValueError, match=r"elu\.h5: another network of such shapes: it has elu"):
        load_classifier(shared / "inputs/elu.h5")
    classifier = Meso4()
    classifier.model.save(tmp_path / "whole.h5")  # the same network, saved whole, is none other
    load_classifier(tmp_path / "whole.h5")


def test_suffixes_of_weights(shared, tmp_path, noise):
    source = shared / "published_weights/Meso4_DF.h5"
    shutil.copy(source, tmp_path / "mine.hdf5")
    weights = find_weights(tmp_path / "mine.hdf5")
    np.testing.assert_allclose(load_predictor(weights)(noise), load_predictor(find_weights(source))(noise))
    for name in ("mine.keras", "mine.H5", "mine.pt"):
        shutil.copy(source, tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}: weights must be a \.tflite, \.weights\.h5, \.h5"):
            find_weights(tmp_path / name)
    with pytest.raises(
        FileNotFoundError, match="which has Meso4_DF, Meso4_DF_F2F, Meso4_F2F, MesoInception_DF"
    ):
        find_weights("Meso5")
