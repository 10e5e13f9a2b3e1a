"""Security: no code from a foreign model, no user names in a shell, no public server, no recorded secret."""

from __future__ import annotations

import ast
import base64
import io
import json
import marshal
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from cyclegan import build_generator, cli
from cyclegan.experiment.training_setup import recorded_params, recorded_text
from cyclegan.params import read, validate

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MARK = "executed"


# Models that carry code. Each would create the file `executed`.

EVIL = f"open({MARK!r}, 'w').close()"
CODE = base64.b64encode(marshal.dumps(compile(EVIL, "x", "exec"))).decode()
LAMBDA = {"class_name": "__lambda__", "config": {"code": CODE, "defaults": None, "closure": None}}
Members = dict[str, bytes]


class Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


def first_convolution(config: dict[str, Any]) -> dict[str, Any]:
    return next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Conv2D")


def layer(**entries: Any) -> Callable[[Members], None]:
    """Replace entries in the description of the first convolution."""
    return described(lambda config: first_convolution(config).update({"registered_name": None} | entries))


def activation(entry: Any) -> Callable[[Members], None]:
    return described(lambda config: first_convolution(config)["config"].update(activation=entry))


def described(change: Callable[[dict[str, Any]], object]) -> Callable[[Members], None]:
    def spoil(members: Members) -> None:
        config = json.loads(members["config.json"])
        change(config)
        members["config.json"] = json.dumps(config).encode()

    return spoil


def member(name: str, content: bytes) -> Callable[[Members], None]:
    return lambda members: members.update({name: content})


def weights(change: Callable[[h5py.File, str, tuple[int, ...]], object]) -> Callable[[Members], None]:
    """Change the first kernel in the file of weights."""

    def spoil(members: Members) -> None:
        content = io.BytesIO(members["model.weights.h5"])
        with h5py.File(content, "r+") as file:
            kernel, name = file["layers/conv2d/vars/0"], "layers/conv2d/vars/0"
            shape = kernel.shape
            del file[name]
            change(file, name, shape)
        members["model.weights.h5"] = content.getvalue()

    return spoil


def pickled_arrays(members: Members) -> None:
    out = io.BytesIO()
    np.savez(out, x=np.array([Pickled()], dtype=object))
    del members["model.weights.h5"]
    members["model.weights.npz"] = out.getvalue()


FUNCTION = {"class_name": "function", "registered_name": "function"}
HOSTILE: dict[str, Callable[[Members], None]] = {
    "Lambda layer": layer(module="keras.layers", class_name="Lambda", config={"name": "x", "function": LAMBDA}),
    "lambda as activation": activation(LAMBDA),
    "class of a module beside it": layer(module="evil", class_name="Layer"),
    "registered class of a module beside it": layer(module="evil", class_name="Layer", registered_name="evil>Layer"),
    "model of a module beside it": described(lambda c: c.update(module="evil", class_name="Layer")),
    "os.system": activation({"module": "os", "config": "system", **FUNCTION}),
    "builtins.exec": activation({"module": "builtins", "config": "exec", **FUNCTION}),
    "keras.utils.get_file": layer(
        module="keras.utils", class_name="get_file", config={"fname": "x", "origin": "file:///etc/hostname"}
    ),
    "saved model from elsewhere": layer(
        module="keras.layers", class_name="TFSMLayer", config={"name": "x", "filepath": "elsewhere"}
    ),
    "pickled Torch module": layer(
        module="keras.layers",
        class_name="TorchModuleWrapper",
        config={"name": "x", "module": base64.b64encode(pickle.dumps(Pickled())).decode()},
    ),
    "pickle as configuration": member("config.json", pickle.dumps(Pickled())),
    "pickle as weights": member("model.weights.h5", pickle.dumps(Pickled())),
    "pickled arrays as weights": pickled_arrays,
    "weights from another file": weights(
        lambda file, name, _: file.__setitem__(name, h5py.ExternalLink("other.h5", "w"))
    ),
    "weights from raw bytes of another file": weights(
        lambda file, name, shape: file.create_dataset(
            name, shape, "float32", external=[("secret.bin", 0, h5py.h5f.UNLIMITED)]
        )
    ),
    "weights of terabytes": weights(
        lambda file, name, _: file.create_dataset(
            name, (60_000, 60_000, 256), "float32", chunks=(1, 1, 256), compression="gzip"
        )
    ),
    "configuration nested without end": member("config.json", b"[" * 100_000),
    "configuration of another kind": member("config.json", b"[1]"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Members:
    path = tmp_path_factory.mktemp("good") / "good.keras"
    build_generator(3, base_filters=4, blocks=1).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image, and with a module that a hostile model tries to import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text(f"{EVIL}\nclass Layer: pass\n")
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 16))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


def write_model(path: Path, members: Members) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_model_that_carries_code_is_refused(
    good: Members, workplace: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    members = dict(good)
    HOSTILE[name](members)
    write_model(workplace / "model.keras", members)
    before = set(workplace.iterdir())
    with pytest.raises(SystemExit) as end:
        cli.main(["translate", "model.keras", "a.png", "--output", "out"])
    error = capfd.readouterr().err
    assert end.value.code == 2, error
    (line,) = error.strip().splitlines()
    assert line.startswith("cyclegan: model.keras: cannot be loaded as a generator")
    assert len(line) < 600
    assert set(workplace.iterdir()) == before
    assert "evil" not in sys.modules


def test_members_beside_the_model_are_not_unpacked(good: Members, workplace: Path) -> None:
    write_model(workplace / "model.keras", good | {"../escaped": b"x", "assets/x.pkl": pickle.dumps(Pickled())})
    cli.main(["translate", "model.keras", "a.png", "--output", "out"])
    assert not (workplace.parent / "escaped").exists()
    assert not (workplace / MARK).exists()


def test_a_foreign_h5_file_is_read_as_data(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = ROOT / "tests/fixtures/parity/generator_keras_contrib.h5"
    shutil.copy(source, workplace / "model.h5")
    with h5py.File(workplace / "model.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1] |= {"class_name": "Lambda", "config": {"function": [CODE, None, None]}}
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(SystemExit) as end:
        cli.main(["import-legacy", "model.h5", "--output", "x.keras"])
    assert end.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "Lambda" in line
    assert not (workplace / MARK).exists()
    assert not (workplace / "x.keras").exists()


# The program's own text.


def test_no_source_unpickles_evaluates_or_starts_a_shell() -> None:
    forbidden_modules = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not {name.name.split(".")[0] for name in node.names} & forbidden_modules, where
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden_modules, where
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in (
                    "eval",
                    "exec",
                    "os.system",
                    "os.popen",
                    "keras.config.enable_unsafe_deserialization",
                )
                for keyword in node.keywords:
                    given = (keyword.arg, ast.unparse(keyword.value))
                    assert given not in (("shell", "True"), ("allow_pickle", "True"), ("safe_mode", "False")), where
                if called in ("np.load", "np.savez"):
                    assert "allow_pickle" in {keyword.arg for keyword in node.keywords}, where
                if called.endswith("saving.load_model"):
                    assert ("safe_mode", "True") in {(k.arg, ast.unparse(k.value)) for k in node.keywords}, where


@pytest.mark.parametrize("start", ["import cyclegan.cli as c", "import cyclegan.tracking.store"])
def test_every_entry_point_disallows_pickle(start: str) -> None:
    """The command line, and the package's MLflow access from a notebook."""
    run = "\ntry: c.main(['preset', 'list'])\nexcept SystemExit: pass" if "cli" in start else ""
    code = f"{start}{run}\nimport os\nprint(os.environ['MLFLOW_ALLOW_PICKLE_DESERIALIZATION'])"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "false"
    for file in ("Makefile", "Dockerfile"):
        assert re.search(r"MLFLOW_ALLOW_PICKLE_DESERIALIZATION *:?= *false", (ROOT / file).read_text())


def test_commands_of_the_pipeline_carry_no_strings_of_the_users() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert {name: stage["cmd"] for name, stage in stages.items()} == {name: f"cyclegan {name}" for name in stages}


def test_servers_listen_to_this_machine_only() -> None:
    makefile, entry = (ROOT / "Makefile").read_text(), (ROOT / "docker-entrypoint.sh").read_text()
    assert makefile.count("mlflow server") == makefile.count("mlflow server --host 127.0.0.1") >= 1
    # A container's own address is 0.0.0.0. Its port is published to this machine only; other host names are refused.
    assert entry.count("--host 0.0.0.0") == 2
    assert "{MLFLOW_SERVER_ALLOWED_HOSTS:-localhost:*,127.0.0.1:*}" in entry
    assert "{SERVE_ALLOWED_HOSTS:-localhost,127.0.0.1}" in entry
    documented = "\n".join(path.read_text() for path in (ROOT / "README.md", ROOT / "Dockerfile"))
    published = re.findall(r"docker run .*-p (\S+)", documented)
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    for text in (makefile, documented, *(path.read_text() for path in SOURCES)):
        assert "0.0.0.0" not in text
        assert "disable-security-middleware" not in text


def test_a_secret_in_an_address_is_not_recorded() -> None:
    tree = read(ROOT / "params.yaml")
    tree["data"] |= {"source": "https://example.org/sets/mine.zip?token=SECRET#SECRET", "sha256": "0" * 64}
    params = validate(tree)
    assert params.data.dataset == "mine"
    assert params.data.recorded_source == "https://example.org/sets/mine.zip"
    assert "SECRET" not in str(recorded_params(params))
    assert "SECRET" not in recorded_text(params)
