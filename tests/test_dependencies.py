"""The dependencies of each stage: the code that `dvc.yaml` lists, and the code in the run key of a training."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import cyclegan
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.experiment.run_key import TRAINING_CODE, study_key, training_shape
from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.system.digests import code_digest, run_key

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "cyclegan"
FILES = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")}

# No output of a stage depends on these.
NEVER_LISTED = {
    "__init__.py": "names what a notebook imports",
    "domains.py": "names the domains",
    "params/": "the values are parameters of the stages",
    "project.py": "names files",
    "system/": "files, locks and processes",
    "tracking/": "records runs",
}
# Imports of a stage that its dependencies do not list.
UNUSED = {
    "split": {"evaluation/distributions.py": "warns of too few images; writes nothing"},
    "train": {"report/grid.py": "draws samples, on which no result depends"},
    "evaluate": {
        "experiment/run_page.py": "describes the MLflow run",
        "experiment/stage_outputs.py": "reads the outputs of earlier stages, which are listed",
        "experiment/trained_run.py": "reads run.json, which is listed",
    },
    "register": {
        "evaluation/distributions.py": "words the reason of a gate",
        "experiment/run_page.py": "describes the MLflow run",
        "experiment/stage_outputs.py": "reads the outputs of earlier stages, which are listed",
        "experiment/trained_run.py": "reads run.json, which is listed",
    },
}
# Imports of the code in the run key that the key does not cover.
SHAPES_NO_WEIGHTS = {
    "experiment/samples.py": "draws",
    "experiment/samples_over_time.py": "draws",
    "models/legacy/keras_contrib.py": "reads generators that no training makes",
}
# Modules that a stage runs without importing them: in another process, or within the registered model.
STARTED = {"search": {"experiment/trial.py"}, "register": {"registry/served_model.py"}}
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def imported(file: str) -> set[str]:
    """The files of the package that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = {name.removeprefix("cyclegan.").replace(".", "/") for name in names if name.startswith("cyclegan.")}
    return {form for path in paths for form in (f"{path}.py", f"{path}/__init__.py") if form in FILES}


def closure(*files: str) -> set[str]:
    """The files and all their direct and indirect imports."""
    found: set[str] = set()
    waiting = set(files)
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= imported(file) - found
    return found


def is_empty(file: str) -> bool:
    """Whether a file holds only a docstring."""
    return len(ast.parse((PACKAGE / file).read_text()).body) == 1


def covers(path: str, file: str) -> bool:
    return file == path or file.startswith(f"{path.removesuffix('/')}/")


def listed(stage: str) -> set[str]:
    start = "src/cyclegan/"
    return {path.removeprefix(start) for path in STAGES[stage]["deps"] if path.startswith(start)}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_the_code_that_a_stage_runs(stage: str) -> None:
    deps = listed(stage)
    found = closure(f"stages/{stage}.py", *STARTED.get(stage, ()))
    unlisted = {
        file for file in found if not is_empty(file) and not any(covers(path, file) for path in (*deps, *NEVER_LISTED))
    }
    assert unlisted == set(UNUSED.get(stage, {}))
    assert {path for path in deps if not any(covers(path, file) for file in found)} == set()
    assert all((PACKAGE / path).exists() for path in deps)


def test_dvc_and_the_run_key_have_one_list_of_the_code_that_shapes_weights() -> None:
    assert len(set(TRAINING_CODE)) == len(TRAINING_CODE)
    for stage in ("search", "train"):
        assert {path for path in TRAINING_CODE if not any(covers(dep, path) for dep in listed(stage))} == set()


def test_the_list_is_complete() -> None:
    """Each import of the listed code is listed too, or is known not to shape weights."""
    listed_code = {file for file in FILES if shapes(file)}
    missing = {needed for file in listed_code for needed in imported(file)} - listed_code
    missing = {file for file in missing if not is_empty(file)}
    assert {file for file in missing if not any(covers(path, file) for path in NEVER_LISTED)} == set(SHAPES_NO_WEIGHTS)


def shapes(file: str) -> bool:
    """Whether `TRAINING_CODE` lists a file or its folder."""
    return file in TRAINING_CODE or Path(file).parent.as_posix() in TRAINING_CODE


def test_keys_change_with_the_code_that_shapes_weights_and_with_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Change each file in turn, in a package whose files have these names and almost no content."""
    package = tmp_path / "cyclegan"
    for file in FILES:
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text("A = 0\n")
    monkeypatch.setattr(cyclegan, "__file__", str(package / "__init__.py"))
    params, project = load(ROOT / "params.yaml"), Project(ROOT, ROOT)
    features = FeatureNetwork("some network", 1, "0", lambda images: images)

    def keys() -> dict[str, str]:
        shapes = training_shape(params, "digest", features, {})
        return {"training": run_key(shapes), "study": study_key(project, params, "digest")}

    before, changed = keys(), {"training": set(), "study": set()}
    for file in FILES:
        (package / file).write_text("A = 0\nX = 1\n")
        for name, key in keys().items():
            if key != before[name]:
                changed[name].add(file)
        (package / file).write_text("A = 0  # A comment.\n")
        assert keys() == before
    shaping = {file for file in FILES if shapes(file)}
    assert changed == {"training": shaping, "study": shaping | {"search/space.py"}}
    assert not {file for file in shaping if file.startswith(("report/", "commands/", "serving/", "registry/"))}
    assert not shaping & {"data/fetching/download.py", "params/train.py", "evaluation/labels/classifier.py"}
    assert {"training/cyclegan.py", "models/layers.py", "evaluation/metrics.py"} < shaping


def test_comments_and_docstrings_are_not_in_a_digest(tmp_path: Path) -> None:
    for file in FILES:
        other = tmp_path / Path(file).name
        other.write_text((PACKAGE / file).read_text() + '\n# A comment.\n"""What stands above."""\n')
        assert code_digest(other) == code_digest(PACKAGE / file), file


def test_only_what_code_does_is_in_its_digest(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (tmp_path / "code.py").write_text(text, encoding="utf-8")
        return code_digest(tmp_path / "code.py")

    first = digest(
        '"""One."""\nclass A:\n    """Two."""\n    x: int = 1\n\ndef f(a, b=2):\n    """Three."""\n    return a\n'
    )
    assert first == digest("class A:\n    x: int = (1)  # one\n\n\ndef f(\n    a,\n    b=2,\n):\n    return a\n")
    for other in ("1.0", "True", "None", "'1'", "1, 'text'", "f'{1}'"):
        assert digest(f"class A:\n    x: int = {other}\n\ndef f(a, b=2):\n    return a\n") != first


def test_a_digest_does_not_depend_on_the_version_of_python(tmp_path: Path) -> None:
    """The same value on 3.11, 3.12 and 3.13, whose trees have other fields and whose tokens differ."""
    (tmp_path / "code.py").write_text(
        "from a import b as c\n"
        "def f(x): ...\n"
        "class D(c, k=1):\n"
        "    y: list[int] = [*(), 'ä\\n', b'\\x00', 1e-9, 2j, None, ...]\n"
        "    async def g(self, /, *a, z=0, **b):\n"
        "        return f'{self!r:>9} {z=} {{}}' 'more' if a else lambda q: (yield q)\n"
        "match c:\n"
        "    case {'k': [1, *_], **r} if r: pass\n",
        encoding="utf-8",
    )
    assert code_digest(tmp_path / "code.py")[:16] == "bfcf2a55fb42bee8"
