"""How the project is written, as far as a program can judge it.

`python -m tests.test_style` lists every violation as `file:line: rule: what`, and their number for each page and
package; `python -m tests.test_style docs src/cyclegan/search` lists those below these paths.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tokenize
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cyclegan.cli import COMMANDS
from cyclegan.params import Params
from cyclegan.params.section import Section

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "cyclegan"

README_LINES = 150
WIDTH = 100
CELL_WORDS = 20

# Pattern → what to write instead. A space stands for any white space; case and the ends of words are seen to.
WORDS = {
    r"pictures?": "image",
    r"(?<!matplotlib\x20)figures?(?! \d)": "metric, value or number",
    r"data bases?": "database",
    r"(?:told|tells?|telling)": "log, report, print, show; distinguish",
    r"(?:says?|said) so": "log, report, print",
    r"do(?:ing)?[ -]nothing": "identity baseline; has no effect",
    r"nothing of yours": "none of your files",
    r"damaged": "corrupt",
    r"anew": "again; regenerate",
    r"mend(?:s|ed|ing)?": "fix",
    r"suffic(?:e|es|ed)": "is enough; out of memory",
    r"nobody can be asked": "stdin is not a terminal",
    r"(?:go|goes|going|went|gone) on(?! (?:a|the|top)\b)": "continue, resume",
    r"whoever": "a user who; anyone who",
    r"(?:^|(?<=[.;:]\x20))whatever": "a subject that names the thing",
    r"so many": "a number, or: the number of",
    r"of which": "a new sentence",
    r"the present(?= (?:champion|run|version|value|file|state|model|training|study|commit))": "the current",
    r"artefacts?": "artifact; checkerboard, color shift",
}
_ISE = (
    r"normal|optim|initial|regular|visual|serial|general|summar|organ|recogn|util|minim|maxim|quant|categor|standard|"
    r"parallel|synchron|token|special|penal|emphas|custom|random|harmon|equal|local|final|real|material|stabil|vector|"
    r"discret|priorit|memor|author|capital|symbol|formal|binar|canonical|central|character"
)
# The same for British spellings, which are also sought in strings that are names.
SPELLINGS = {
    r"(?:un|dis|multi|water)?colour[a-z]*": "color",
    r"grey(?:s|scale)?": "gray",
    rf"(?:un|de|re|dis)?(?:{_ISE})is(?:e|es|ed|ing|er|ers|ation|ations)": "-ize",
    r"(?:analys(?:ed|ing)|to analyse)": "analyze",
    r"(?:behaviour|favour|neighbour|honour|labour|flavour)[a-z]*": "-or",
    r"(?:centre[sd]?|metres?|fibres?)": "-er",
    r"(?:label|model|travel|cancel|channel|signal)l(?:ed|ing)": "one l",
    r"licences?": "license",
    r"(?:defence|offence)s?": "-se",
    r"(?:learnt|spelt|burnt|whilst|catalogues?|judgements?)": "American spelling",
}
# Phrases that are not looked into, and why.
ALLOWED = {
    '"figures"': "a key of the protocol between search and worker, which users' programs speak",
    "`figures`": "the same key, as docs/search.md names it",
}
# Names that look like a key of `params.yaml`, and what they are.
NO_KEYS = {
    "data.md5": "a tag of MLflow runs",
    "model.save": "a method of Keras' models",
    "model.sha256": "a tag of registered versions",
    "search.replaced": "a tag of MLflow runs",
    "search.trial": "a tag of MLflow runs",
}
FILE_NAME = re.compile(r"\.(?:py|md|keras|ya?ml|h5|csv|zip|tar|json|npz|npy|log|html|png|txt|lock|db|onnx|tflite)$")


class Violation(NamedTuple):
    path: str
    line: int
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.what}"


Finding = tuple[int, str]  # offset in the text, what is wrong


# What is read.


def files() -> list[Path]:
    """Pages, settings and the package, as git has them."""
    patterns = (
        *("*.md", "docs/**/*.md", "docs/**/*.ipynb", "benchmarks/*.md", "data/fluent-emoji/*.md"),
        *("tests/fixtures/**/*.md", "params.yaml", "dvc.yaml", "presets/*.yaml", "Makefile", "Dockerfile"),
        *("src/**/*.py", "src/**/*.j2"),
    )
    return sorted(
        {path for pattern in patterns for path in ROOT.glob(pattern) if ".ipynb_checkpoints" not in path.parts}
    )


def is_page(path: str) -> bool:
    return path.endswith((".md", ".ipynb"))


@cache
def text_of(path: Path) -> str:
    """The file; of a notebook its cells, as the page that they make."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{source}\n```" if is_code else source for source, is_code in cells) + "\n"


def blank(text: str) -> str:
    """As long, with nothing but its line breaks."""
    return re.sub(r"[^\n]", " ", text)


@cache
def prose(path: str, text: str) -> str:
    """What people read of a file, at its place: all else is blank."""
    if path.endswith(".py"):
        return python_prose(text)
    if path.endswith(".j2"):
        return html_prose(text)
    if is_page(path):
        return re.sub(r"(?ms)^(```python\n)(.*?)^```", lambda m: blank(m[1]) + python_prose(m[2]) + "   ", text)
    return text


def python_prose(source: str) -> str:
    """Comments, docstrings and strings. A string without a space is a name, and remains for its spelling only."""
    kept = [" " * len(line) for line in source.split("\n")]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, text, indent = tokenize.tok_name[token.type], token.string, ""
        if kind == "STRING":
            prefix, quote, text = re.fullmatch(r"(?s)(\w*)('''|\"\"\"|'|\")(.*)\2", text).groups()
            indent = " " * len(prefix + quote)
            if "f" in prefix.lower():  # before Python 3.12, where the fields are tokens of their own
                text = re.sub(r"{(?:[^{}]|{[^{}]*})*}", lambda field: blank(field[0]), text)
        elif kind == "COMMENT":
            text = text.replace("#", " ")
        elif kind != "FSTRING_MIDDLE":
            continue
        if kind != "COMMENT" and not re.search(r"\s", text) and not SPELLING.search(text):
            continue
        text = indent + text.replace("\\n", "  ")
        for row, part in enumerate(text.split("\n"), token.start[0] - 1):
            column = token.start[1] if row == token.start[0] - 1 else 0
            kept[row] = kept[row][:column] + part + kept[row][column + len(part) :]
    return "\n".join(kept)


def html_prose(text: str) -> str:
    """The text, descriptions in attributes, and the sentences in scripts."""

    def described(match: re.Match[str]) -> str:
        kept = blank(match[0])
        for value in re.finditer(r'(?:alt|title|label|placeholder|content)="([^"]*)"', match[0]):
            kept = kept[: value.start(1)] + value[1] + kept[value.end(1) :]
        return kept

    def sentences(match: re.Match[str]) -> str:
        kept = blank(match[0])
        for value in re.finditer(r"""(["'`])((?:(?!\1).)* (?:(?!\1).)*)\1""", match[0]):
            kept = kept[: value.start(2)] + value[2] + kept[value.end(2) :]
        return kept

    text = re.sub(r"(?s){[{%#].*?[}%#]}|<style.*?</style>", lambda m: blank(m[0]), text)
    text = re.sub(r"(?s)<script.*?</script>", sentences, text)
    return re.sub(r"(?s)<[a-z/!][^>]*>", described, text)


def code_in(text: str) -> Iterator[tuple[int, str]]:
    """The code of a page with its offset: fenced blocks but those in Python, and spans."""
    for block in re.finditer(r"(?ms)^```(\w*)\n(.*?)^```", text):
        if block[1] not in ("python", "mermaid"):
            yield block.start(2), block[2]
    for span in re.finditer(r"(?<!`)(`+)(?!`)((?:.|\n(?!\n))+?)(?<!`)\1(?!`)", without_blocks(text)):
        yield span.start(2), span[2]


def without_blocks(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```", lambda m: blank(m[0]), text)


# The rules: each takes a file's path and text, and yields an offset with what is wrong there.


def compiled(words: Iterable[str]) -> re.Pattern[str]:
    """One pattern for all; the number of the group that matches says which."""
    alternatives = "|".join(f"({word})".replace(" ", r"\s+") for word in words)
    return re.compile(rf"(?im)\b(?<!--)(?:{alternatives})\b")


SPELLING = compiled(SPELLINGS)
BANNED = {**WORDS, **SPELLINGS}
BANNED_PATTERN = compiled(BANNED)


def words(path: str, text: str) -> Iterator[Finding]:
    """A word that this project avoids, or a British spelling."""
    text = prose(path, text)
    for phrase in ALLOWED:
        text = text.replace(phrase, " " * len(phrase))
    for match in BANNED_PATTERN.finditer(text):
        instead = list(BANNED.values())[match.lastindex - 1]
        yield match.start(), f"{' '.join(match[0].split())!r}; write {instead}"


def links(path: str, text: str) -> Iterator[Finding]:
    """A relative link to a file or heading that does not exist."""
    if not is_page(path):
        return
    for match in re.finditer(r"(?:\]\(|^\[[^\]]+\]: +)([^)\s]+)", without_blocks(text), re.MULTILINE):
        target, _, anchor = match[1].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (ROOT / path).parent / target if target else ROOT / path
        if target and not file.exists():
            yield match.start(1), f"{match[1]} does not exist"
        elif anchor and file.suffix in (".md", ".ipynb"):
            headings = anchors(text if not target else text_of(file))
            if anchor not in headings:
                yield match.start(1), f"{match[1]}: the page has no such heading"


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"(?m)^#{1,6} +(.*?)\s*#*$", without_blocks(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        names.add(name + (f"-{found[name]}" if found[name] else ""))
        found[name] += 1
    return names | set(re.findall(r'<a (?:name|id)="([^"]+)"', text))


def names(path: str, text: str) -> Iterator[Finding]:
    """A file, test, command, `make` target or parameter that is named and does not exist."""
    pieces = list(code_in(text)) if is_page(path) else [(0, prose(path, text))]
    for offset, piece in pieces:
        for check in (missing_files, missing_commands, missing_keys):
            for position, what in check(piece, is_page(path)):
                yield offset + position, what


def missing_files(text: str, is_code: bool) -> Iterator[Finding]:
    pattern = r"(?:src|docs|tests|presets|tools|benchmarks)/[\w./-]*\w"
    if is_code:  # CONTRIBUTING.md names modules as they lie in the package.
        pattern += r"|(?:\w+/)*\w+\.py"
    for match in re.finditer(rf"(?<![\w/.…*~$}}-])({pattern})(?![\w*…{{])(?:::(\w+))?", text):
        name, function = match.groups()
        there = [folder / name for folder in (ROOT, PACKAGE) if (folder / name).exists()]
        if not there:
            is_placeholder = Path(name).stem.isupper()
            if not is_placeholder and name not in modules():
                yield match.start(), f"{name} does not exist"
        elif function and not re.search(rf"(?m)^(?:async )?def {function}\b", there[0].read_text(encoding="utf-8")):
            yield match.start(), f"{name} has no {function}"


@cache
def modules() -> set[str]:
    return {path.name for folder in ("src", "tests", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")}


def missing_commands(text: str, is_code: bool) -> Iterator[Finding]:
    start = r"^(?:\$ )?(?:[^\n]*&& )?" if is_code else r"(?<=[`'])"
    for match in re.finditer(rf"(?m){start}cyclegan ([a-z][a-z-]+)(?: (\w[\w-]+))?", text):
        command, second = match[1], match[2]
        if command not in COMMANDS:
            yield match.start(1), f"cyclegan {command} is no command"
        elif command == "search" and second and f"search {second}" not in COMMANDS:
            yield match.start(1), f"cyclegan search {second} is no command"
        elif command == "preset" and second not in (None, "list", "NAME", *presets()):
            yield match.start(1), f"{second} is no preset"
    for match in re.finditer(r"(?m)(?:^|(?<=[`']))(?:\$ )?make (?:\w+=\S+ )*([a-z][a-z-]*)", text):
        if is_code and not re.search(rf"(?m)^{match[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8")):
            yield match.start(1), f"make {match[1]} is no target"


@cache
def presets() -> set[str]:
    return {path.stem for path in (ROOT / "presets").glob("*.yaml")}


def missing_keys(text: str, _is_code: bool) -> Iterator[Finding]:
    sections = "|".join(Params.model_fields)
    for match in re.finditer(rf"(?<![\w./@-])(?:{sections})(?:\.[A-Za-z_]\w*)+(?![\w(])", text):
        key = match[0]
        if key not in NO_KEYS and not is_key(key) and not FILE_NAME.search(key) and not is_python(key):
            yield match.start(), f"{key} is no parameter"


def is_key(name: str) -> bool:
    """Whether the parameters have it; `data.folder_` is what remains of `f"data.folder_{domain}"`."""
    return name in keys() or (name.endswith("_") and f"{name}A" in keys())


@cache
def keys() -> set[str]:
    return set(keys_of(Params, ""))


def keys_of(section: type[Section], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in sections_in(field.annotation):
            yield from keys_of(inner, f"{prefix}{name}.")


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in typing.get_args(annotation):
        yield from sections_in(part)


def is_python(name: str) -> bool:
    """A module of the package, or an attribute of the model that `training/cyclegan.py` describes."""
    first, second, *_ = name.split(".")
    if first == "model" and re.search(rf"\b(?:self\.|def ){second}\b", model_source()):
        return True
    return (PACKAGE / first / second).is_dir() or (PACKAGE / first / f"{second}.py").exists()


@cache
def model_source() -> str:
    return "".join(
        (PACKAGE / "training" / name).read_text(encoding="utf-8") for name in ("cyclegan.py", "base_model.py")
    )


def layout(path: str, text: str) -> Iterator[Finding]:
    """A README, a line (but for tables, links and code) or a table cell that is too long."""
    if not is_page(path):
        return
    if path == "README.md" and len(text.splitlines()) > README_LINES:
        yield 0, f"{len(text.splitlines())} lines; at most {README_LINES}"
    offset = 0
    for line in without_blocks(text).split("\n"):
        if line.lstrip().startswith("|"):
            for cell in re.split(r"(?<!\\)\|", line):
                if len(cell.split()) > CELL_WORDS:
                    yield offset, f"a cell of {len(cell.split())} words; at most {CELL_WORDS}"
        elif len(line.rstrip()) > WIDTH and "](" not in line and "://" not in line:
            yield offset, f"{len(line.rstrip())} characters; at most {WIDTH}"
        offset += len(line) + 1


RULES: dict[str, Callable[[str, str], Iterator[Finding]]] = {
    "words": words,
    "links": links,
    "names": names,
    "layout": layout,
}


def violations(paths: Iterable[Path], rules: Iterable[str] = RULES) -> list[Violation]:
    found = []
    for file in paths:
        path, text = file.relative_to(ROOT).as_posix(), text_of(file)
        for rule in rules:
            for offset, what in RULES[rule](path, text):
                found.append(Violation(path, text.count("\n", 0, offset) + 1, rule, what))
    return found


def part_of(path: str) -> str:
    """A page by itself; a file of the package by the folder that it lies in."""
    if not path.startswith("src/"):
        return path
    _, _, *folders, name = path.split("/")
    return "/".join(folders[: 2 if folders[:1] == ["data"] else 1]) or name


EXAMPLES = {
    "words": [
        ("docs/x.md", "Your pictures.", ["'pictures'"]),
        ("docs/x.md", "one figure,\nso\nmany", ["'figure'", "'so many'"]),
        ("docs/x.md", "Figure 3; a matplotlib figure; configure; what goes on top; a suggested color", []),
        ("docs/x.md", "```python\npicture = 1  # told\n```", ["'told'"]),
        ("docs/x.md", "```console\n$ cyclegan\nit goes on\n```", ["'goes on'"]),
        ("params.yaml", "a: 1 # optimised, in grey", ["'optimised'", "'grey'"]),
        ("src/x.py", 'figure = f"{picture} is damaged"  # mend it', ["'damaged'", "'mend'"]),
        ("src/x.py", 'row["picture"], "colour", "data"\\\n    " base"', ["'colour'"]),
        ("src/x.py", 'def told():\n    """A data\n    base."""', ["'data base'"]),
        (
            "src/x.j2",
            '<figure><img alt="a picture">colour</figure><script>figure("so many")</script>',
            ["'picture'", "'colour'", "'so many'"],
        ),
    ],
    "links": [
        ("docs/x.md", "[a](nowhere.md) ![b](../README.md) [c](https://x.org/y) [d](#here)\n# Here", ["nowhere.md"]),
        ("docs/x.md", "[a](#a-b-1)\n# A `b`\n# A b!\n```\n# C\n```\n[c](#c)", ["#c:"]),
    ],
    "names": [
        ("docs/x.md", "`src/cyclegan/cli.py`, `src/nothing.py`, `docs/NAME.md`", ["src/nothing.py"]),
        (
            "docs/x.md",
            "`tests/test_style.py::part_of`, `tests/test_style.py::none`",
            ["tests/test_style.py has no none"],
        ),
        ("CONTRIBUTING.md", "`training/losses.py`, `training/loss.py`, `cli.py`", ["training/loss.py"]),
        ("docs/x.md", "`cyclegan search worker`, `cyclegan serves`, a cyclegan that", ["cyclegan serves"]),
        ("docs/x.md", "```console\n$ make test\n$ make tea\n```", ["make tea"]),
        ("docs/x.md", "`train.loss_weights.identity`, `train.nothing`, `search.space.cycle=null`", ["train.nothing"]),
        ("docs/x.md", "`model.generators`, `model.fit(x)`, `train.py`, `data/loading`", []),
        ("src/x.py", 'raise UserError("data.nothing: see docs/none.md")', ["docs/none.md", "data.nothing"]),
    ],
    "layout": [
        ("README.md", "x\n" * 151, ["151 lines"]),
        ("docs/x.md", f"```console\n{'x' * 101}\n```", []),
        ("docs/x.md", f"{'x' * 101}\n| {'x' * 101} |\n[{'x' * 101}](y)", ["101 characters"]),
        ("docs/x.md", f"| {'x ' * 20}| {'x ' * 21}|", ["a cell of 21 words"]),
    ],
}


@pytest.mark.parametrize(
    ("rule", "path", "text", "expected"), [(rule, *example) for rule in EXAMPLES for example in EXAMPLES[rule]]
)
def test_the_rule_finds(rule: str, path: str, text: str, expected: list[str]) -> None:
    found = [what for _, what in RULES[rule](path, text)]
    assert len(found) == len(expected), found
    assert all(what.startswith(start) for what, start in zip(found, expected, strict=True)), found


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_is_kept(rule: str) -> None:
    found = violations(files(), [rule])
    assert [str(violation) for violation in found] == []


def main(arguments: list[str]) -> None:
    below = [Path(argument).resolve() for argument in arguments] or [ROOT]
    found = violations(path for path in files() if any(path.is_relative_to(folder) for folder in below))
    for violation in found:
        print(violation)
    for (rule, part), number in sorted(Counter((v.rule, part_of(v.path)) for v in found).items()):
        print(f"{number:5} {rule} {part}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main(sys.argv[1:])
