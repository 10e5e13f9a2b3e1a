"""Coverage-guided fuzzing of the two doors through which a stranger's bytes come in: archives and images.

    pip install atheris
    python tests/fuzz/door.py -max_total_time=300

Every input must end in an unpacked archive or a decoded image, or in one line that says why not; never in another
exception, and never with a file outside the target folder. An input that breaks this is written to the working
directory as `crash-…`: mend the program, and keep the input in `tests/fuzz/seeds`, which `test_seeds.py` goes through
with every test run. Further options are libFuzzer's (`-help=1`). New inputs of interest go into the first folder named,
by default a temporary one.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path

SEEDS = Path(__file__).with_name("seeds")
INSTRUMENTED = [
    "bz2", "gzip", "lzma", "tarfile", "zipfile", "PIL", "tifffile", "cyclegan.data.fetching.archives",
    "cyclegan.data.images.image", "cyclegan.data.images.tiff", "cyclegan.data.images.decode",
]  # fmt: skip
MAX_LENGTH = 4096


def check(data: bytes, folder: Path) -> str:
    """Send an input through its door, which the first byte chooses; returns what became of it.

    Raises:
        AssertionError: a promise was broken.
        Exception: any other than those that the doors declare.
    """
    if not data:
        return "empty"
    if data[0] % 2:
        return check_archive(data[1:], folder)
    return check_image(data[1:], folder, 8 if data[0] % 4 else 16)


def check_archive(content: bytes, folder: Path) -> str:
    """Unpack into `folder/into`; nothing may appear beside it, nor anything in it but plain files and folders."""
    from cyclegan.data.fetching.archives import Limits, extract
    from cyclegan.system.errors import UserError

    archive, into = folder / "archive", folder / "into"
    archive.write_bytes(content)
    into.mkdir()
    try:
        extract(archive, into, Limits(members=50, total_bytes=1 << 20, ratio=20, free_bytes=1 << 18))
        outcome = "unpacked"
    except UserError as error:
        assert_one_line(str(error))
        outcome = "refused"
    assert {path.name for path in folder.iterdir()} == {"archive", "into"}, "a file left the target folder"
    paths = list(into.rglob("*"))
    assert not any(path.is_symlink() for path in paths), "a link came out"
    assert sum(path.stat().st_size for path in paths if path.is_file()) <= 1 << 20, "the limit was passed"
    return outcome


def check_image(content: bytes, folder: Path, bit_depth: int) -> str:
    """Decode; what comes out must be an image of the promised form."""
    from cyclegan.data.images import decode as images

    path = folder / "image"
    path.write_bytes(content)
    try:
        image = images.read(path, bit_depth)
    except images.BadImageError as error:
        assert_one_line(str(error))
        return "refused"
    height, width, channels = image.pixels.shape
    assert height >= 2
    assert width >= 2
    assert channels >= 1
    assert image.pixels.dtype.itemsize * 8 == bit_depth
    return "decoded"


def assert_one_line(message: str) -> None:
    assert message, "a reason is missing"
    assert len(message.splitlines()) == 1, f"more than one line: {message!r}"


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        for name in INSTRUMENTED:
            import_module(name)
    # Images are small here: a bomb of a few million pixels would only slow the search down.
    sys.modules["cyclegan.data.images.image"].MAX_PIXELS = 1 << 20  # type: ignore[attr-defined]

    def one_input(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            check(data, Path(folder))

    with tempfile.TemporaryDirectory() as new:
        options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")] or [new]
        atheris.Setup([sys.argv[0], f"-max_len={MAX_LENGTH}", *options, *folders, str(SEEDS)], one_input)
        # Ends the process, by way of C.
        atheris.Fuzz()


if __name__ == "__main__":
    main()
