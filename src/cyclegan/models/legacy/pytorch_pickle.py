"""The pickle inside a PyTorch file, interpreted as data: nothing in it is imported, called or executed.

A real unpickler runs what a file names. This one knows the few instructions that `torch.save` writes for a state dict,
and makes nothing but plain values and the descriptions of tensors.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

# The pickle of a network of 54 million weights has 14 KB. This many bytes take at most a few seconds.
LARGEST_PICKLE = 1 << 20

# The storages of weights, and the NumPy type of their values in memory order; NumPy has no bfloat16.
STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bf16",
    "torch.LongStorage": "i8",
}
_CALLED = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",  # torch 0.3
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}

SAVE_STATE_DICT = "save the weights alone with PyTorch: torch.save(net.state_dict(), FILE)"


class UnreadableError(Exception):
    """Why a file cannot be read, and the remedy: `reason; remedy`."""


@dataclass(frozen=True)
class Storage:
    """A row of numbers that the pickle points to.

    Attributes:
        dtype: one of the values of `STORAGES`.
        key: its name in the file.
        count: how many numbers it holds.
    """

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class TensorView:
    """A tensor: where its numbers lie in a storage. Offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    size: tuple[Any, ...]
    stride: tuple[Any, ...]


@dataclass(frozen=True)
class _Global:
    """A class or function that the pickle names."""

    name: str


def interpret(file: BinaryIO) -> Any:
    """Return the value of the pickle at the file's position, and leave the position behind it.

    Tensors are `TensorView`s and ordered dictionaries are `dict`s.

    Raises:
        UnreadableError: it has an instruction or a name that no state dict needs.
        Exception: of nearly any class, where the pickle is corrupt.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []  # for each mark, the stack under it
    memo: dict[int, Any] = {}
    instructions: Iterator[tuple[Any, Any, Any]] = pickletools.genops(file)
    for instruction, argument, _ in instructions:
        match instruction.name:
            case "STOP":
                return stack.pop()
            case "PROTO" if argument == 2:
                pass
            case "GLOBAL":
                stack.append(_global(argument.replace(" ", ".")))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[instruction.name])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append(_EMPTY[instruction.name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(instruction.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE" | "APPENDS" | "SETITEMS":
                items, stack = stack, below.pop()
                _collect(instruction.name, stack, items)
            case "APPEND":
                _collect("APPENDS", stack, [stack.pop()])
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _collect("SETITEMS", stack, [key, value])
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                stack.pop()  # the versions of the layers
            case other:
                raise UnreadableError(
                    f"has the pickle instruction {other}, which no state dict needs; {SAVE_STATE_DICT}"
                )
    raise EOFError("the pickle has no end")


def _global(name: str) -> _Global:
    if name not in STORAGES and name not in _CALLED:
        raise UnreadableError(f"names {name[:80]!r}, unlike a state dict; if you trust its source, {SAVE_STATE_DICT}")
    return _Global(name)


def _collect(instruction: str, stack: list[Any], items: list[Any]) -> None:
    match instruction:
        case "TUPLE":
            stack.append(tuple(items))
        case "APPENDS":
            stack[-1].extend(items)
        case "SETITEMS":
            _set_items(stack[-1], zip(items[::2], items[1::2], strict=True))


def _set_items(target: dict[Any, Any], pairs: Any) -> None:
    for key, value in pairs:
        # The hash of a deeply nested tuple would overflow the interpreter's own stack.
        if not isinstance(key, str | int):
            raise TypeError("a key is neither text nor a number")
        target[key] = value


def _storage(identity: Any) -> Storage:
    match identity:
        case ("storage", _Global(name), str(key), str(), int(count), *view) if name in STORAGES:
            # Old files add a None. Anything else would be a view of another storage, which PyTorch no longer writes.
            if view in ([], [None]):
                return Storage(STORAGES[name], key, count)
    raise UnreadableError(f"points to something that is no plain storage; {SAVE_STATE_DICT}")


def _call(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Global("collections.OrderedDict"), ():
            return {}
        case _Global("collections.OrderedDict"), ([*_] as pairs,):  # as Python 2 wrote it
            made: dict[Any, Any] = {}
            _set_items(made, pairs)
            # A list that the pickle refers to again and again would fill the memory.
            pairs.clear()
            return made
        case _Global("torch._utils._rebuild_parameter"), (TensorView() as tensor, *_):
            return tensor
        case (
            _Global("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2"),
            (Storage() as storage, int(offset), tuple(size), tuple(stride), *_),
        ):
            return TensorView(storage, offset, size, stride)
    raise TypeError("a call does not fit its function")
