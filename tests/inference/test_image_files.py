"""Generators on arrays and on image files: `Translator`, `translate_files` and `cyclegan translate`."""

from __future__ import annotations

import io
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage
import tensorflow as tf
import tifffile
from PIL import Image, ImageCms

from cyclegan import cli
from cyclegan.data.images.decode import decode
from cyclegan.inference import image_files
from cyclegan.inference.image_files import translate_files
from cyclegan.models.generator import build_generator
from cyclegan.models.pixels import to_float, to_integer
from cyclegan.models.translator import Translator, load_generator
from cyclegan.system.errors import UserError


@pytest.fixture(scope="module")
def generator() -> keras.Model:
    return build_generator(3, 3, base_filters=4, blocks=1, seed=1)


def random_images(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def expected(generator: keras.Model, images: np.ndarray, multiple: int = 4, smallest: int = 8) -> np.ndarray:
    """One direct call of the model on images padded by reflection, one pixel at a time."""
    padded = to_float(images)
    for axis in (1, 2):
        side = images.shape[axis]
        wanted = max(smallest, -(-side // multiple) * multiple)
        there_and_back = [*range(side), *range(side - 2, 0, -1)]
        padded = np.take(padded, [there_and_back[n % len(there_and_back)] for n in range(wanted)], axis)
    translated = generator(padded, training=False).numpy()
    return translated[:, : images.shape[1], : images.shape[2]]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (4, 4), (7, 5), (8, 12), (17, 30)])
def test_any_size_equals_a_direct_call(generator: keras.Model, size: tuple[int, int]) -> None:
    images = random_images(3, *size, 3)
    translator = Translator(generator, batch_size=2)

    translated = translator.translate_float(to_float(images))
    np.testing.assert_allclose(translated, expected(generator, images), atol=1e-5)
    assert translated.dtype == np.float32

    # Integers may differ by one where a float error changes the rounding.
    stored = translator.translate(images).astype(int)
    assert np.abs(stored - to_integer(expected(generator, images), 8)).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_batches_do_not_matter(generator: keras.Model, batch_size: int) -> None:
    images = random_images(5, 12, 10, 3)
    translated = Translator(generator, batch_size=batch_size).translate_float(to_float(images))
    np.testing.assert_allclose(translated, expected(generator, images), atol=1e-5)


def test_no_images_give_no_images(generator: keras.Model) -> None:
    assert Translator(generator).translate(random_images(0, 8, 8, 3)).shape == (0, 8, 8, 3)


def test_16_bit_keeps_more_than_8_bits(generator: keras.Model) -> None:
    images = random_images(2, 8, 8, 3, dtype=np.uint16)
    translated = Translator(generator, bit_depth=16).translate(images)
    assert translated.dtype == np.uint16
    reference = to_integer(expected(generator, images), 16).astype(int)
    assert np.abs(translated.astype(int) - reference).max() <= 2
    assert len(np.unique(translated % 257)) > 50


def test_gray_to_color() -> None:
    generator = build_generator(1, 3, base_filters=4, blocks=1)
    images = random_images(2, 9, 11, 1)
    translated = Translator(generator).translate(images)
    assert translated.shape == (2, 9, 11, 3)
    assert np.abs(translated.astype(int) - to_integer(expected(generator, images), 8)).max() <= 1


def test_training_is_seen_at_once() -> None:
    generator = build_generator(3, 3, base_filters=4, blocks=0)
    translator = Translator(generator)
    images = random_images(1, 8, 8, 3)
    before = translator.translate(images)
    generator.set_weights([2 * weights + 0.1 for weights in generator.get_weights()])
    assert (translator.translate(images) != before).any()


def test_unet_of_fixed_multiple() -> None:
    generator = build_generator(3, 3, architecture="unet", base_filters=2, depth=5, padding="same", upsample="resize")
    images = random_images(1, 33, 20, 3)
    translated = Translator(generator).translate_float(to_float(images))
    np.testing.assert_allclose(translated, expected(generator, images, multiple=32, smallest=32), atol=1e-5)


def test_generator_built_for_one_size() -> None:
    image = keras.Input((8, 8, 3))
    generator = keras.Model(image, keras.layers.Conv2D(3, 1)(image))
    assert Translator(generator).translate(random_images(1, 8, 7, 3)).shape == (1, 8, 7, 3)
    with pytest.raises(UserError, match="8×8 pixels only"):
        Translator(generator).translate(random_images(1, 9, 8, 3))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (random_images(8, 8, 3), r"shape \[8, 8, 3\]: expected uint8 images \[N, H, W, 3\]"),
        (random_images(1, 8, 8, 1), r"shape \[1, 8, 8, 1\]: expected uint8 images \[N, H, W, 3\]"),
        (random_images(1, 0, 8, 3), r"shape \[1, 0, 8, 3\]"),
        (random_images(1, 8, 8, 3, dtype=np.uint16), "images are uint16: expected uint8"),
        (np.zeros((1, 8, 8, 3)), "images are float64: expected uint8"),
    ],
)
def test_wrong_input_is_named(generator: keras.Model, images: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Translator(generator).translate(images)


def test_integers_are_no_floats(generator: keras.Model) -> None:
    with pytest.raises(UserError, match="images are uint8: expected float32"):
        Translator(generator).translate_float(random_images(1, 8, 8, 3))


def test_diverged_generator_is_refused() -> None:
    generator = build_generator(3, 3, base_filters=4, blocks=0)
    generator.set_weights([weights * np.nan for weights in generator.get_weights()])
    with pytest.raises(UserError, match="not finite"):
        Translator(generator).translate(random_images(1, 8, 8, 3))


@pytest.mark.parametrize(("key", "value"), [("bit_depth", 12), ("batch_size", 0)])
def test_wrong_arguments_are_named(generator: keras.Model, key: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{key} = {value}"):
        Translator(generator, **{key: value})


@pytest.mark.usefixtures("deterministic")
def test_load_gives_the_same_generator(generator: keras.Model, tmp_path: Path) -> None:
    generator.save(tmp_path / "generator.keras")
    images = random_images(2, 10, 8, 3)
    loaded = Translator(load_generator(tmp_path / "generator.keras")).translate(images)
    np.testing.assert_array_equal(loaded, Translator(generator).translate(images))


def test_load_refuses_other_files(generator: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_generator(tmp_path / "missing.keras")

    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(UserError, match=r"cut short or no \.keras file"):
        load_generator(tmp_path / "text.keras")

    generator.save(tmp_path / "whole.keras")
    whole = (tmp_path / "whole.keras").read_bytes()
    (tmp_path / "short.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut short or no \.keras file"):
        load_generator(tmp_path / "short.keras")

    (tmp_path / "model.h5").write_bytes(whole)
    with pytest.raises(UserError, match=r"not a \.keras file"):
        load_generator(tmp_path / "model.h5")

    classifier = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    classifier.save(tmp_path / "classifier.keras")
    with pytest.raises(UserError, match=r"a generator maps \[N, H, W, C\]"):
        load_generator(tmp_path / "classifier.keras")


def test_load_runs_no_code(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.Lambda(lambda x: -x)(image)).save(tmp_path / "lambda.keras")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_generator(tmp_path / "lambda.keras")


def test_files_keep_size_order_and_stem(generator: keras.Model, tmp_path: Path) -> None:
    sizes = [(8, 8), (8, 8), (8, 8), (9, 5), (8, 8)]
    inputs, images = [], []
    for n, size in enumerate(sizes):
        images.append(random_images(1, *size, 3) // (n + 1))
        inputs.append(tmp_path / f"image.{n}.bmp")
        Image.fromarray(images[-1][0]).save(inputs[-1])
    translator = Translator(generator, batch_size=2)
    seen: list[Path] = []

    written = translate_files(translator, inputs, tmp_path / "new" / "out", on_written=seen.append)

    assert written == seen == [tmp_path / "new" / "out" / f"image.{n}.png" for n in range(5)]
    for path, image in zip(written, images, strict=True):
        stored = np.asarray(Image.open(path)).astype(int)
        assert np.abs(stored - translator.translate(image)[0]).max() <= 1


@pytest.mark.usefixtures("deterministic")
def test_files_are_brought_to_the_generators_channels(generator: keras.Model, tmp_path: Path) -> None:
    gray = random_images(9, 7)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    written = translate_files(Translator(generator), [tmp_path / "gray.png"], tmp_path / "out")
    color = np.repeat(gray[None, ..., None], 3, axis=-1)
    np.testing.assert_array_equal(np.asarray(Image.open(written[0])), Translator(generator).translate(color)[0])


@pytest.mark.usefixtures("deterministic")
def test_16_bit_files_stay_16_bit(tmp_path: Path) -> None:
    generator = build_generator(1, 1, base_filters=4, blocks=1)
    images = random_images(1, 8, 8, 1, dtype=np.uint16)
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "deep.png")
    translator = Translator(generator, bit_depth=16)
    written = translate_files(translator, [tmp_path / "deep.png"], tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(written[0])), translator.translate(images)[0, ..., 0])
    # A .keras file does not contain the bit depth: it is an argument.
    generator.save(tmp_path / "generator.keras")
    files = [str(tmp_path / name) for name in ("generator.keras", "deep.png", "said")]
    cli.main(["translate", *files[:2], "--output", files[2], "--bit-depth", "16"])
    assert (tmp_path / "said" / "deep.png").read_bytes() == written[0].read_bytes()


def test_no_file_is_overwritten_without_the_option(generator: keras.Model, tmp_path: Path) -> None:
    sources = [tmp_path / "a.png", tmp_path / "b.png"]
    for source in sources:
        Image.fromarray(random_images(8, 8, 3)).save(source)
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.png").write_bytes(b"precious")
    translator = Translator(generator)

    with pytest.raises(UserError, match="exists already"):
        translate_files(translator, sources, out)
    assert (out / "b.png").read_bytes() == b"precious"
    assert not (out / "a.png").exists()

    translate_files(translator, sources, out, overwrite=True)
    assert Image.open(out / "b.png").size == (8, 8)


def test_an_input_is_never_overwritten(generator: keras.Model, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    Image.fromarray(random_images(8, 8, 3)).save(source)
    before = source.read_bytes()
    with pytest.raises(UserError, match="itself an image to translate"):
        translate_files(Translator(generator), [source], tmp_path, overwrite=True)
    assert source.read_bytes() == before


def test_files_that_cannot_be_translated_are_named(generator: keras.Model, tmp_path: Path) -> None:
    translator = Translator(generator)
    with pytest.raises(UserError, match=r"missing\.png: does not exist"):
        translate_files(translator, [tmp_path / "missing.png"], tmp_path / "out")

    for name in ("a.png", "a.jpg"):
        Image.fromarray(random_images(8, 8, 3)).save(tmp_path / name)
    with pytest.raises(UserError, match=r"would both become .*a\.png"):
        translate_files(translator, [tmp_path / "a.png", tmp_path / "a.jpg"], tmp_path / "out")

    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png: is not a"):
        translate_files(translator, [tmp_path / "broken.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()

    spectral = build_generator(5, 5, base_filters=4, blocks=0)
    with pytest.raises(UserError, match=r"a\.png: has 3 channels, not 5"):
        translate_files(Translator(spectral), [tmp_path / "a.png"], tmp_path / "out")


def test_large_images_share_no_batch(generator: keras.Model, tmp_path: Path) -> None:
    class Counting(Translator):
        def translate(self, images: np.ndarray) -> np.ndarray:
            calls.append(images.shape[:3])
            return images

    calls: list[tuple[int, ...]] = []
    sizes = [(4, 4)] * 9 + [(1024, 512)] * 3 + [(1024, 1025)] * 2
    inputs = [tmp_path / f"{n:02}.png" for n in range(len(sizes))]
    for path, size in zip(inputs, sizes, strict=True):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    translate_files(Counting(generator), inputs, tmp_path / "out")
    large = [(2, 1024, 512), (1, 1024, 512), (1, 1024, 1025), (1, 1024, 1025)]
    assert calls == [(8, 4, 4), (1, 4, 4), *large]


def test_out_of_memory_names_the_images(
    generator: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [tmp_path / f"{n}.png" for n in range(2)]
    for path in inputs:
        Image.fromarray(random_images(8, 9, 3)).save(path)
    errors: list[Exception] = [
        MemoryError("Unable to allocate 1 TiB"),
        tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        tf.errors.InternalError(None, None, "something else"),
    ]
    translator = Translator(generator)
    monkeypatch.setattr(translator, "translate", lambda _: (_ for _ in ()).throw(errors.pop(0)))
    for _ in range(2):
        with pytest.raises(UserError, match=r"0\.png, .*1\.png: out of memory \(9×8 pixels\)"):
            translate_files(translator, inputs, tmp_path / "out")
    with pytest.raises(tf.errors.InternalError):
        translate_files(translator, inputs, tmp_path / "out")
    monkeypatch.setattr(image_files, "decode", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(UserError, match=r"0\.png: out of memory"):
        translate_files(translator, inputs, tmp_path / "out")


@pytest.fixture
def model(generator: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    generator.save("generator.keras")
    return "generator.keras"


def save(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_images(8, 8, 3)).save(name, "PNG")


def below(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def stderr_lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard error, without the progress bar of slow machines."""
    return [line for line in re.split(r"[\r\n]+", capfd.readouterr().err) if line and not line.endswith("]")]


def test_a_folder_is_read_as_fetch_reads_it(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    save("in/a.jfif", "in/b.JPE", "in/cats/a.png", "in/cats/deep/c.jpg", "in/.hidden/d.png", "alone.png")
    for name in ("._b.JPE", ".DS_Store", "Thumbs.db", "notes.txt", "cats/README"):
        Path("in", name).write_bytes(b"\0")
    cli.main(["translate", model, "in", "alone.png", "--output", "out"])
    assert below("out") == {"a.png", "b.png", "cats/a.png", "cats/deep/c.png", "alone.png"}
    (line,) = stderr_lines(capfd)
    assert all(fact in line for fact in ("cyclegan: 3 files", ".db, .txt, none")), line
    # All files that are named directly are translated, and an image named twice only once.
    cli.main(["translate", model, "in/cats", "in/cats/a.png", "in/.hidden/d.png", "--output", "more"])
    assert below("more") == {"a.png", "deep/c.png", "d.png"}


def test_an_output_folder_inside_the_input_is_no_input(model: str) -> None:
    save("in/a.png", "in/cats/a.png")
    for _ in range(2):
        cli.main(["translate", model, "in", "--output", "in/out", "--overwrite"])
    assert below("in") == {"a.png", "cats/a.png", "out/a.png", "out/cats/a.png"}
    cli.main(["translate", model, "in/cats", "--output", "in/cats/../../in/new"])
    assert below("in/new") == {"a.png"}


def test_two_images_of_one_place_are_refused(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*inputs: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            cli.main(["translate", model, *inputs, "--output", "out"])
        return capfd.readouterr().err

    save("in/cats/a.png", "in/cats/a.jpg", "one/x.png/a.jpg", "two/x.jpg")
    err = refused("in")
    assert all(name in err for name in ("in/cats/a.jpg", "in/cats/a.png", "out/cats/a.png")), err
    for inputs in (("one", "two"), ("two", "one")):
        err = refused(*inputs)
        assert all(fact in err for fact in ("two/x.jpg", "out/x.png", "folder")), err
    assert not Path("out").exists()
    Path("out").mkdir()
    Path("out/x.png").write_bytes(b"mine")
    err = refused("one")
    assert "out/x.png" in err
    assert "not a folder" in err


def test_unreadable_images_do_not_stop_the_others(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    save("in/1.png", "in/3.png", "in/5.png")
    Path("in/2.png").write_bytes(b"")
    Path("in/4.png").write_bytes(b"<html>")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["translate", model, "in", "--output", "out"])
    summary, empty, page = stderr_lines(capfd)
    assert all(fact in summary for fact in ("cyclegan: 2 of 5", "cannot be read", "out")), summary
    assert all(fact in empty for fact in ("  in/2.png", "empty")), empty
    assert all(fact in page for fact in ("  in/4.png", "web page")), page
    assert below("out") == {"1.png", "3.png", "5.png"}
    # After a repair they can be translated alone, or all again.
    save("in/2.png", "in/4.png")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["translate", model, "in", "--output", "out"])
    (line,) = stderr_lines(capfd)
    assert all(fact in line for fact in ("cyclegan: ", "out/1.png", "exists", "--overwrite")), line
    cli.main(["translate", model, "in/2.png", "in/4.png", "--output", "out"])
    assert below("out") == {f"{n}.png" for n in range(1, 6)}
    cli.main(["translate", model, "in", "--output", "out", "--overwrite"])


@pytest.mark.usefixtures("deterministic")
def test_many_channels_go_from_tiff_to_tiff(tmp_path: Path) -> None:
    images = random_images(1, 10, 12, 5)
    tifffile.imwrite(tmp_path / "x.tif", images[0], photometric="minisblack", planarconfig="contig")
    translator = Translator(build_generator(5, 2, base_filters=4, blocks=0, init_gain=0.3))
    (written,) = translate_files(translator, [tmp_path / "x.tif"], tmp_path / "out")
    assert written == tmp_path / "out" / "x.tif"
    np.testing.assert_array_equal(decode(written, 2, 8).pixels, translator.translate(images)[0])


def test_an_embedded_color_profile_is_applied(generator: keras.Model, tmp_path: Path) -> None:
    with Image.open(Path(skimage.__file__).parent / "data" / "rocket.jpg") as photo:
        adobe_rgb, profile = photo.crop((0, 0, 40, 24)), photo.info["icc_profile"]
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    srgb = ImageCms.profileToProfile(adobe_rgb, ImageCms.ImageCmsProfile(io.BytesIO(profile)), target)
    adobe_rgb.save(tmp_path / "adobe.png", icc_profile=profile)
    srgb.save(tmp_path / "srgb.png", icc_profile=None)
    adobe_rgb.save(tmp_path / "untagged.png", icc_profile=None)
    inputs = [tmp_path / f"{name}.png" for name in ("adobe", "srgb", "untagged")]
    adobe, expected_one, untagged = map(decode_png, translate_files(Translator(generator), inputs, tmp_path / "out"))
    np.testing.assert_array_equal(adobe, expected_one)
    assert (untagged != adobe).any()


def test_translate_counts_color_profiles(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(Path(skimage.__file__).parent / "data" / "rocket.jpg") as photo:
        image, profile = photo.crop((0, 0, 40, 24)), photo.info["icc_profile"]
    Path("in").mkdir()
    for name, icc in (("a", profile), ("b", profile), ("c", b"corrupt"), ("d", None)):
        image.save(f"in/{name}.png", icc_profile=icc)
    cli.main(["translate", model, "in", "--output", "out"])
    counts = "converted to sRGB by their color profile: 2; taken as sRGB, because their color profile cannot be used: 1"
    assert capsys.readouterr().out == f"{counts}\n"
    # Conversions are also reported with unreadable images, and not at all without conversions.
    Path("in/e.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["translate", model, "in", "--output", "more"])
    assert capsys.readouterr().out == f"{counts}\n"
    cli.main(["translate", model, "in/d.png", "--output", "plain"])
    assert capsys.readouterr().out == ""


def decode_png(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)
