"""Section `data`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cyclegan.domains import DomainNames
from cyclegan.params.section import (
    Channels,
    Fraction,
    Section,
    Size,
    impossible,
    parse_size,
    refuse_unexpanded,
)

FOLDER_A = "data/fluent-emoji/trainA"
FOLDER_B = "data/fluent-emoji/trainB"
# Characters with a meaning in HTML, Markdown or paths.
MARKUP = '<>&"`*[]|\\/'
MAX_NAME_LENGTH = 32


class Names(Section):
    """The names of both domains."""

    A: str
    B: str

    @field_validator("A", "B")
    @classmethod
    def _readable(cls, name: str) -> str:
        if not _is_readable(name):
            raise impossible(
                f"must be 1 to {MAX_NAME_LENGTH} printable characters, without {' '.join(MARKUP)} and without spaces "
                "at the ends"
            )
        return name

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.A == self.B:
            raise impossible(f"both names are {self.A!r}; write two different names")
        return self


class Data(Section):
    """Stages fetch and split: the images."""

    source: str = Field(
        default="fluent-emoji",
        min_length=1,
        description="Source of the images: fluent-emoji (included), folders, an archive (file:… or https:…), or a "
        "public data set by name, such as horse2zebra.",
    )
    sha256: str | None = Field(
        default=None,
        description="SHA-256 checksum of the archive; required with file: and https:.",
    )
    folder_A: str = Field(
        default=FOLDER_A,
        min_length=1,
        description="Folder of domain A for source: folders, absolute or relative to the project.",
    )
    folder_B: str = Field(default=FOLDER_B, min_length=1, description="Folder of domain B.")
    name: str | None = Field(
        default=None,
        description="Name of the MLflow experiment and of the registered models. null: from source.",
    )
    names: Names | None = Field(
        default=None,
        description="Names of both domains for readers, such as [flat, 3D]; files and metrics keep A and B. null: the "
        "names of the folders with source: folders, else A and B.",
    )
    load_size: Literal["original"] | Size = Field(
        default=(286, 286),
        description="Resize images to this many pixels: one number, [height, width], or original (keep their sizes).",
    )
    channels_A: Channels = Field(
        default=3,
        description="Channels of domain A: 1 (gray), 3 (RGB), 4 (RGBA), or 2 and 5…16 (TIFF files with as many).",
    )
    channels_B: Channels = Field(
        default=3, description="Channels of domain B. With other channels than domain A, the identity loss must be 0."
    )
    bit_depth: Literal[8, 16] = Field(default=8, description="Bits per channel: 8 or 16.")
    val_fraction: Fraction = Field(
        default=0.1,
        description="Share of the training images for validation, 0…1, if the source has no validation split.",
    )
    test_fraction: Fraction = Field(
        default=0.1,
        description="Share of the images for the test, 0…1, if the source has no test split.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the split.")
    on_bad_image: Literal["fail", "skip"] = Field(
        default="fail",
        description="Unreadable images: fail (list them and stop) or skip (leave them out).",
    )
    labels: Literal["none", "folders"] = Field(
        default="none",
        description="Classes of the images, for stage evaluate only: none, or folders (trainA/CLASS/image.png).",
    )

    @field_validator("load_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_size(value, "original")

    @field_validator("sha256")
    @classmethod
    def _sum(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9a-f]{64}", value):
            raise impossible("must be 64 hexadecimal digits in lower case; run sha256sum on the archive")
        return value

    @field_validator("folder_A", "folder_B", mode="before")
    @classmethod
    def _folder(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None or value == "":
            default = FOLDER_A if info.field_name == "folder_A" else FOLDER_B
            raise impossible(f"must be a path, because DVC watches it; write {default} if it is not used")
        if isinstance(value, str):
            refuse_unexpanded(value)
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            raise impossible("must be 1 to 64 letters, digits, '.', '_' or '-', and start with a letter or digit")
        return value

    @field_validator("names", mode="before")
    @classmethod
    def _both_names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == 2:
            value = dict(zip("AB", value, strict=True))
        if value is not None and not isinstance(value, dict | Names):
            raise impossible("must be two names, such as [flat, 3D], or null")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        is_archive = self.source.startswith(("file:", "https:"))
        if self.source.startswith("http:"):
            raise impossible(f"data.source = {self.source!r}: plain http is not allowed; use https: or file:")
        if self.source.startswith("https:") and not _is_address(self.source):
            raise impossible(
                "data.source: not a valid https address; check host and port, and write non-ASCII characters "
                "percent-encoded"
            )
        if is_archive and self.sha256 is None:
            raise impossible("data.sha256: empty, but an archive needs its checksum; run sha256sum on the file")
        if self.labels != "none" and self.load_size == "original":
            raise impossible(
                f"data.labels: {self.labels} needs images of one size for the classifier, but data.load_size is "
                "original; set data.load_size to a number"
            )
        if self.name is None and not all(map(_plain, self._names)):
            raise impossible(
                f"data.name: cannot be derived from {' and '.join(map(repr, self._names))}, as each name needs ASCII "
                "letters or digits; set data.name"
            )
        if self.val_fraction + self.test_fraction >= 0.9:
            raise impossible("data.val_fraction + data.test_fraction: leave less than 10 % for training; lower them")
        return self

    @property
    def without_effect(self) -> list[str]:
        """Warnings of keys that are set but not read with this source, one line for each."""
        lines = []
        if self.source in ("fluent-emoji", "folders") and self.sha256 is not None:
            lines.append(f"data.sha256: has no effect with data.source: {self.source}; set it to null")
        for key, value, default in (("folder_A", self.folder_A, FOLDER_A), ("folder_B", self.folder_B, FOLDER_B)):
            if self.source != "folders" and value != default:
                lines.append(
                    f"data.{key} = {value}: has no effect with data.source: {self.recorded_source}, but DVC watches "
                    f"it; set it to {default}"
                )
        return lines

    @property
    def recorded_source(self) -> str:
        """`source` as runs record it: an https address without user, password, query and fragment."""
        if not self.source.startswith("https:"):
            return self.source
        parts = urlsplit(self.source)
        return f"https://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def dataset(self) -> str:
        """The name under which runs and registered models of this data appear."""
        return self.name or "2".join(map(_plain, self._names))[:64]

    @property
    def domain_names(self) -> DomainNames:
        """The names of both domains for readers: `names`, else those of the folders if they say more than A and B."""
        if self.names is not None:
            return DomainNames(self.names.A, self.names.B)
        folders = (Path(self.folder_A).name, Path(self.folder_B).name)
        generic = any(re.fullmatch(r"(train|val|valid|test)?[ _-]?[AB]", name, re.IGNORECASE) for name in folders)
        if self.source != "folders" or generic or folders[0] == folders[1] or not all(map(_is_readable, folders)):
            return DomainNames()
        return DomainNames(*folders)

    @property
    def _names(self) -> tuple[str, ...]:
        """Names that identify the data: of both folders, or of the folder that holds trainA and trainB."""
        if self.source == "folders":
            a, b = Path(self.folder_A), Path(self.folder_B)
            if a.parent == b.parent and (a.name, b.name) in (("trainA", "trainB"), ("A", "B")) and a.parent.name:
                return (a.parent.name,)
            return a.name, b.name
        if self.source.startswith(("file:", "https:")):
            # The query of an https address may hold a secret. A file name may contain ? and #.
            path = urlsplit(self.source).path if self.source.startswith("https:") else self.source.removeprefix("file:")
            path = unquote(path)
            return (re.sub(r"\.(zip|tar|tgz|tbz2|txz|tar\.\w+)$", "", path.rstrip("/").rsplit("/", 1)[-1]),)
        return (self.source,)


def _plain(name: str) -> str:
    """A name without the characters that are special in MLflow, file systems or shells."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")


def _is_readable(name: str) -> bool:
    """Whether a name fits into headings, tables and links as it is."""
    return (
        1 <= len(name) <= MAX_NAME_LENGTH and name.isprintable() and name == name.strip() and not set(name) & {*MARKUP}
    )


def _is_address(source: str) -> bool:
    try:
        _ = urlsplit(source).port  # Reading the port checks it.
    except ValueError:
        return False
    return source.isascii()
