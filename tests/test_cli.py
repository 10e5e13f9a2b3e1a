"""The command line, as a person uses it: what it prints, where, and with which exit code."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan.cli import COMMANDS, main
from cyclegan.params import load, read, validate
from cyclegan.system.messages import shown_messages
from in_process import cyclegan_here

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures" / "parity"


def cyclegan(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "cyclegan", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with parameters and presets, and no data."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    return tmp_path


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a user error prints."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("cyclegan: ")
    return line.removeprefix("cyclegan: ")


@pytest.mark.parametrize(("encoding", "printed"), [("ascii", "tags.?"), ("latin-1", "tags.?"), ("utf-8", "tags.…")])
def test_commands_print_in_any_encoding(encoding: str, printed: str) -> None:
    """`main` sets the error handler first, so one command stands for all."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "cyclegan", "runs", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert printed in done.stdout.decode(encoding)
    assert done.stderr == b""


def test_help_imports_no_slow_package() -> None:
    heavy = {"tensorflow", "keras", "mlflow", "optuna", "pandas", "numpy", "pydantic", "dvc", "ruamel"}
    code = (
        "import sys, cyclegan.cli\n"
        f"for command in {['', *COMMANDS]!r}:\n"
        "    print('===', command)\n"
        "    try: cyclegan.cli.main([*command.split(), '--help'])\n"
        "    except SystemExit: pass\n"
        f"    print('LOADED', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    _, *texts = done.stdout.split("=== ")
    for command, text in zip(("", *COMMANDS), texts, strict=True):
        assert text.startswith(f"{command}\nusage: cyclegan")
        assert text.endswith("LOADED []\n")
        below = [name.removeprefix(command).strip() for name in COMMANDS if name.rpartition(" ")[0] == command]
        assert [name for name in below if f"\n    {name}" not in text] == []


def test_every_command_has_its_module(capfd: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS.values():
        assert (ROOT / "src/cyclegan" / command.module.replace(".", "/")).with_suffix(".py").is_file()
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "invalid choice: 'trian'" in capfd.readouterr().err


def test_messages_go_to_stderr_in_one_format(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("cyclegan.anything")
    with shown_messages():
        logger.info("50 %% of %s", "it")
    logger.info("not shown outside the command line")
    assert capfd.readouterr() == ("", "cyclegan: 50 % of it\n")


def test_outside_a_project(tmp_path: Path) -> None:
    assert "no dvc.yaml in" in refused(cyclegan("params", cwd=tmp_path))


def test_params_prints_every_value(project: Path) -> None:
    (project / "deep").mkdir()
    done = cyclegan("params", cwd=project / "deep")
    assert done.returncode == 0
    assert "train.loss_weights.identity.AtoB = " in done.stdout


def test_no_command_prints_the_password_of_an_address(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    for key, address in (("uri", "http://ann:s3c/re t@host/p"), ("storage", "postgresql:/ann:s3cret@db/x")):
        text = re.sub(rf"(?m)^(  {key}:)( null)?$", rf"\1 {address}", text)
    (project / "params.yaml").write_text(text)
    printed = cyclegan_here("params", cwd=project).stdout
    assert "tracking.uri = http://host/p\n" in printed
    assert "search.storage = ***@db/x\n" in printed
    changed = cyclegan_here("preset", "quickstart", cwd=project).stdout
    assert "tracking.uri: http://host/p -> None\n" in changed
    assert "s3c" not in printed + changed


def test_a_wrong_parameter_stops_every_stage_before_any_work(project: Path) -> None:
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("  update_order: joint", "  update_order: jiont"))
    for stage in ("fetch", "split", "train", "evaluate", "register"):
        line = refused(cyclegan_here(stage, cwd=project))
        assert line == "params.yaml: train.update_order = 'jiont': must be 'joint' or 'sequential'"
    assert {path.name for path in project.iterdir()} == {"dvc.yaml", "params.yaml", "presets"}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("split", "dvc repro fetch"),
        ("train", "dvc repro split"),
        ("evaluate", "dvc repro train"),
        ("register", "dvc repro train"),
    ],
)
def test_a_stage_without_its_input_names_the_previous_stage(project: Path, stage: str, message: str) -> None:
    assert message in refused(cyclegan_here(stage, cwd=project))


def test_only_fetch_needs_the_folders(project: Path) -> None:
    file = project / "params.yaml"
    text = file.read_text().replace("  source: fluent-emoji", "  source: folders", 1)
    file.write_text(text.replace("folder_A: data/fluent-emoji/trainA", "folder_A: elsewhere", 1))
    missing = f"data.folder_A = {project}/elsewhere: does not exist; correct the path"
    for command in ("fetch", "params"):
        assert refused(cyclegan_here(command, cwd=project)) == missing
    for stage, before in (("split", "fetch"), ("train", "split"), ("evaluate", "train"), ("register", "train")):
        assert f"dvc repro {before}" in refused(cyclegan_here(stage, cwd=project))
    assert "folder_A" not in cyclegan_here("sync", cwd=project).stderr


def test_a_parameter_without_effect_is_a_warning(project: Path) -> None:
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("folder_A: data/fluent-emoji/trainA", "folder_A: mine", 1))
    done = cyclegan_here("params", cwd=project)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("cyclegan: data.folder_A = mine: has no effect with data.source: fluent-emoji")


def test_preset_prints_what_changes(project: Path) -> None:
    done = cyclegan_here("preset", "tutorial", cwd=project)
    assert done.returncode == 0
    assert "train.update_order: joint -> sequential" in done.stdout
    assert read(project / "params.yaml")["model"]["skip"] == "concat"
    assert load(project / "params.yaml") == validate(read(project / "presets" / "tutorial.yaml"))
    again = cyclegan_here("preset", "tutorial", cwd=project)
    assert again.stdout == "params.yaml already holds the values of preset tutorial\n"
    assert "quickstart" in cyclegan_here("preset", "list", cwd=project).stdout.split()


@pytest.mark.parametrize("exists", [True, False])
def test_preset_is_written_into_the_file_behind_a_link(project: Path, tmp_path: Path, exists: bool) -> None:
    kept = tmp_path / "kept" / "mine.yaml"
    kept.parent.mkdir()
    (project / "params.yaml").rename(kept)
    (project / "params.yaml").symlink_to("kept/mine.yaml")
    if not exists:
        kept.unlink()
    done = cyclegan_here("preset", "digits", cwd=project)
    assert done.returncode == 0, done.stderr
    assert " -> " in done.stdout
    assert (project / "params.yaml").readlink() == Path("kept/mine.yaml")
    assert load(kept) == validate(read(project / "presets" / "digits.yaml"))


def test_preset_replaces_a_link_to_itself(project: Path) -> None:
    (project / "params.yaml").unlink()
    (project / "params.yaml").symlink_to("params.yaml")
    assert cyclegan_here("preset", "digits", cwd=project).returncode == 0
    assert cyclegan_here("params", cwd=project).returncode == 0


def test_unknown_preset(project: Path) -> None:
    assert refused(cyclegan_here("preset", "tutrial", cwd=project)) == (
        "preset 'tutrial' does not exist; did you mean 'tutorial'?"
    )
    (project / "params.yaml").unlink()
    assert "cyclegan preset quickstart" in refused(cyclegan_here("params", cwd=project))
    assert cyclegan_here("preset", "quickstart", cwd=project).returncode == 0
    assert cyclegan_here("params", cwd=project).returncode == 0


def test_summary_counts_parameters_as_the_tutorial_does(project: Path) -> None:
    cyclegan_here("preset", "tutorial", cwd=project)
    done = cyclegan_here("summary", cwd=project)
    assert done.returncode == 0
    assert done.stdout.count("35,276,553") >= 2
    assert done.stdout.count("6,962,369") >= 2
    composites = ("composite_G_AtoB", "composite_G_BtoA")
    assert all(f'"{name}"' in done.stdout for name in ("G_AtoB", "G_BtoA", "D_A", "D_B", *composites))


def test_import_and_translate(tmp_path: Path) -> None:
    """A generator saved with keras-contrib becomes a .keras file that gives the recorded output."""
    model = tmp_path / "generator.keras"
    done = cyclegan_here("import", FIXTURES / "generator_keras_contrib.h5", "--output", model, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "69,801 parameters" in done.stdout
    assert "generator.keras: exists; name a new file" in refused(
        cyclegan_here("import", FIXTURES / "generator_keras_contrib.h5", "--output", model, cwd=tmp_path)
    )
    recorded = np.load(FIXTURES / "generator_io.npz")
    pixels = np.rint((recorded["x"][0] + 1) * 127.5).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    done = cyclegan_here("translate", model, "image.png", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    translated = np.asarray(Image.open(tmp_path / "out" / "image.png")).astype(float)
    # The image was rounded to 8 bits on the way in and out.
    assert np.abs(translated - (recorded["y"][0] + 1) * 127.5).mean() < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("translate", "none.keras", "image.png", "-o", "out"), "none.keras: does not exist"),
        (("translate", "image.png", "image.png", "-o", "out"), "is not a .keras file"),
        (
            ("translate", "broken.keras", "image.png", "-o", "out"),
            "broken.keras: is cut short or no .keras file",
        ),
        (("import", "image.png", "-o", "x.keras"), "image.png"),
        (("import", "missing.h5", "-o", "x.keras"), "missing.h5"),
        (("import", "missing.h5", "-o", "x.h5"), "must end in .keras"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    (tmp_path / "broken.keras").write_bytes(b"no model")
    assert message in refused(cyclegan_here(*arguments, cwd=tmp_path))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "x.keras").exists()


def test_a_closed_pipe_is_no_error(project: Path) -> None:
    command = f"{sys.executable} -m cyclegan params | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_version() -> None:
    assert cyclegan("--version", cwd=ROOT).stdout == f"cyclegan {metadata.version('cyclegan')}\n"


@pytest.mark.parametrize(
    ("options", "variable"), [(("--debug", "params"), None), (("params", "--debug"), None), (("params",), "1")]
)
def test_debug_shows_the_traceback_of_every_error(
    project: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], variable: str | None
) -> None:
    (project / "params.yaml").unlink()
    for given in ("0", ""):
        monkeypatch.setenv("CYCLEGAN_DEBUG", given)
        refused(cyclegan_here("params", cwd=project))
    if variable:
        monkeypatch.setenv("CYCLEGAN_DEBUG", variable)
    done = cyclegan(*options, cwd=project)
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.splitlines()[-1].startswith("cyclegan: ")


FAILING = """
import errno, os, sys
import cyclegan.cli, cyclegan.commands.params
number, place = int(sys.argv[1]), sys.argv[2] or None
def fail(options):
    raise RuntimeError("wrapped") from OSError(number, os.strerror(number), place)
cyclegan.commands.params.run = fail
cyclegan.cli.main(sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("number", "place", "arguments", "is_short"),
    [
        (errno.ENOENT, "{project}/data/x", ["params"], True),
        (errno.EACCES, "data/x", ["params"], True),
        (errno.ENOENT, "/usr/lib/libx.so", ["params"], False),
        (errno.EACCES, "", ["params"], False),
        (errno.ENOTDIR, "{tmp}/mine/x", ["params"], True),
        (errno.EACCES, "{tmp}/elsewhere/artifacts/1", ["params"], True),
        (errno.ENOSPC, "", ["params"], True),
        (errno.EIO, "/usr/lib/libx.so", ["params"], True),
        (errno.EACCES, "{project}/data/x", ["--debug", "params"], False),
    ],
)
def test_an_os_error_is_one_line_only_with_a_path_of_the_user(
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    place: str,
    arguments: list[str],
    is_short: bool,
) -> None:
    tmp = tmp_path_factory.mktemp("others")
    text = (project / "params.yaml").read_text()
    text = re.sub(r"(?m)^(  folder_A:) \S+", rf"\1 {tmp}/mine", text)
    (project / "params.yaml").write_text(text)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp}/elsewhere/mlflow.db")
    monkeypatch.delenv("CYCLEGAN_DEBUG", raising=False)
    named = place.format(project=project, tmp=tmp)
    command = [sys.executable, "-c", FAILING, str(number), named, *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert ("Traceback" not in done.stderr) is is_short
    if is_short:
        assert refused(done) == (f"{os.strerror(number)}: {named}" if named else os.strerror(number))
    else:
        assert "RuntimeError: wrapped" in done.stderr


def test_a_folder_that_cannot_be_written_is_one_line(project: Path) -> None:
    (project / "data").write_text("a file where a folder must go")
    (project / "elsewhere").mkdir()
    for domain in "AB":
        (project / f"images{domain}").mkdir()
        for number in range(12):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(project / f"images{domain}" / f"{number}.png")
    file = project / "params.yaml"
    text = file.read_text().replace("source: fluent-emoji", "source: folders")
    for domain in "AB":
        text = text.replace(f"data/fluent-emoji/train{domain}", f"images{domain}")
    file.write_text(text)
    line = refused(cyclegan_here("fetch", cwd=project))
    assert "data" in line
