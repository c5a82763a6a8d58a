"""What a lazy tensor is made of, where that is only casts, stacks and cuts of stored tensors.

A recognised tensor is an expression in plain lists, which `recognised` in the asking process makes into views:

    ["stored", name]                  the tensor as it lies there; casts that keep every value do not count
    ["shaped", of, shape]             the same values, in the same order, in another shape
    ["rows", of, first, shape]        some rows: `first` counts along the first axis
    ["blocks", of, first, n, period]  of each `period` rows, along the last but one axis, n from `first` on
    ["transposed", of]                the last two axes changed
    ["swapped", of]                   (h, a, b, …) becomes (h, b, a, …)
    ["stack", [of, …]]                along a new first axis
    ["concatenated", [of, …]]         along the first axis

A node of the graph is known by `_func`, which is either torch's own function or upstream's closure over a method's
name, and by `_args` and `_kwargs`. What is not recognised is computed whole: that is always right.
Source: gguf-py/gguf/lazy.py, LazyMeta and LazyBase._wrap_fn @ 0c1e570.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from convert.llama_cpp.front_end.worker.source_tensor import SourceTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Expression = list[Any]

_KEEPS_VALUES: Final = frozenset({"contiguous", "clone", "detach", "float", "numpy"})
_WIDENED: Final = frozenset({"BF16", "F16", "F32"})


class UnrecognisedError(Exception):
    """The tensor is made by something else too."""


def recognise(lazy: Any) -> Expression | None:  # noqa: ANN401 - upstream's
    """Say what a lazy tensor of float16 or float32 is made of; None where that is more than the list above."""
    try:
        return _expression(lazy)
    except UnrecognisedError:
        return None


def stored_names(lazy: Any) -> list[str]:  # noqa: ANN401
    """List the stored tensors that a lazy one is made from."""
    return list(dict.fromkeys(leaf.name for node in nodes(lazy) for leaf in _leaves(node)))


def nodes(lazy: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield every lazy tensor that one is made of, itself included, each once."""
    seen: set[int] = set()
    waiting = [lazy]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (list, tuple)):
            waiting.extend(node)
        elif hasattr(node, "_func") and id(node) not in seen:
            seen.add(id(node))
            yield node
            if node._data is None:  # noqa: SLF001
                waiting.extend((*node._args, *node._kwargs.values()))  # noqa: SLF001


def _leaves(node: Any) -> list[SourceTensor]:  # noqa: ANN401
    return [item for item in node._args if isinstance(item, SourceTensor)]  # noqa: SLF001


def _expression(node: Any) -> Expression:  # noqa: ANN401
    if not hasattr(node, "_func") or node._data is not None or node._func is None:  # noqa: SLF001
        raise UnrecognisedError
    if leaves := _leaves(node):
        if leaves[0].dtype not in _WIDENED:
            raise UnrecognisedError
        return ["stored", leaves[0].name]
    name = _operation(node._func)  # noqa: SLF001
    if name in _KEEPS_VALUES:
        return _expression(node._args[0])  # noqa: SLF001
    made = _OPERATIONS.get(name)
    if made is None:
        raise UnrecognisedError
    return made(node, list(node._args), dict(node._kwargs))  # noqa: SLF001


def _operation(function: Any) -> str:  # noqa: ANN401
    """Return the name of torch's function or method that a node calls."""
    captured = _captured(function)
    if isinstance(captured.get("name"), str):
        return str(captured["name"])
    if function.__qualname__ == "LazyTorchTensor.numpy.<locals>.<lambda>":
        return "numpy"
    if "fn" in captured and function.__name__ == "eager_tuple_element":
        return f"{_operation(captured['fn'])} element"
    return str(getattr(function, "__name__", ""))


def _captured(function: Any) -> dict[str, Any]:  # noqa: ANN401
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    return dict(zip(code.co_freevars, (cell.cell_contents for cell in cells), strict=True)) if code else {}


def _shape(node: Any) -> list[int]:  # noqa: ANN401
    return [int(size) for size in node._meta.shape]  # noqa: SLF001


def _cast(node: Any, args: list[Any], _: dict[str, Any]) -> Expression:  # noqa: ANN401
    if "float32" not in str(node._meta.dtype) and node._meta.dtype != args[0]._meta.dtype:  # noqa: SLF001
        raise UnrecognisedError  # a cast that rounds
    return _expression(args[0])


def _shaped(node: Any, args: list[Any], _: dict[str, Any]) -> Expression:  # noqa: ANN401
    return ["shaped", _expression(args[0]), _shape(node)]


def _stack(_: Any, args: list[Any], kwargs: dict[str, Any]) -> Expression:  # noqa: ANN401
    _require_axis(args, kwargs, 0)
    return ["stack", [_expression(part) for part in args[0]]]


def _concatenated(_: Any, args: list[Any], kwargs: dict[str, Any]) -> Expression:  # noqa: ANN401
    _require_axis(args, kwargs, 0)
    return ["concatenated", [_expression(part) for part in args[0]]]


def _require_axis(args: Sequence[Any], kwargs: dict[str, Any], wanted: int, *, place: int = 1) -> None:
    axis = args[place] if len(args) > place else kwargs.get("dim", kwargs.get("axis", 0))
    if axis != wanted:
        raise UnrecognisedError


def _item(node: Any, args: list[Any], _: dict[str, Any]) -> Expression:  # noqa: ANN401
    of, whole = args[0], _shape(args[0])
    axis, item = _one_cut(args[1] if isinstance(args[1], tuple) else (args[1],), whole)
    if isinstance(item, int):
        if axis != 0:
            raise UnrecognisedError
        return ["rows", _expression(of), item % whole[0], _shape(node)]
    first, stop, step = item.indices(whole[axis])
    if step == 1:
        return _cut(_expression(of), axis, whole, first, _shape(node))
    if axis == len(whole) - 2 and whole[axis] % step == 0 and first < step and stop == whole[axis]:
        return ["blocks", _expression(of), first, 1, step]
    raise UnrecognisedError


def _one_cut(index: tuple[Any, ...], whole: Sequence[int]) -> tuple[int, Any]:
    """Find the one axis that an index cuts, and how; the others it must leave as they are."""
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = index[:at] + (slice(None),) * (len(whole) - len(index) + 1) + index[at + 1 :]
    cuts = [(axis, item) for axis, item in enumerate(index) if item != slice(None)]
    if len(cuts) != 1 or len(index) > len(whole) or not isinstance(cuts[0][1], (int, slice)):
        raise UnrecognisedError
    return cuts[0]


def _cut(of: Expression, axis: int, whole: Sequence[int], first: int, own: list[int]) -> Expression:
    """Take a run of one axis."""
    if axis == 0:
        return ["rows", of, first, own]
    if axis == len(whole) - 2:
        return ["blocks", of, first, own[axis], whole[axis]]
    if axis == len(whole) - 1:
        return _turned(["blocks", _turned(of), first, own[axis], whole[axis]])
    raise UnrecognisedError


def _turned(of: Expression) -> Expression:
    """Change the last two axes; twice is not at all."""
    turned: Expression = of[1] if of[0] == "transposed" else ["transposed", of]
    return turned


def _element(node: Any, args: list[Any], kwargs: dict[str, Any]) -> Expression:  # noqa: ANN401
    """Cut a chunk, or a piece of a split."""
    (of, sizes, *rest), index = args[0][0], args[1]
    name = _operation(_captured(node._func)["fn"])  # noqa: SLF001
    axis, whole = _axis(of, rest, kwargs), _shape(of)
    if isinstance(sizes, int):
        first = index * (-(-whole[axis] // sizes) if name == "chunk" else sizes)
    else:
        first = [0, *accumulate(int(size) for size in sizes)][index]
    return _cut(_expression(of), axis, whole, first, _shape(node))


def _axis(of: Any, rest: Sequence[Any], kwargs: dict[str, Any]) -> int:  # noqa: ANN401
    axis = rest[0] if rest else kwargs.get("dim", kwargs.get("axis", 0))
    return int(axis) % len(_shape(of))


def _transposed(node: Any, args: list[Any], _: dict[str, Any]) -> Expression:  # noqa: ANN401
    whole = _shape(args[0])
    if len(args) == 1 and len(whole) != 2:  # noqa: PLR2004 - `.T` of a matrix
        raise UnrecognisedError
    axes = sorted(int(axis) % len(whole) for axis in args[1:3]) if len(args) > 1 else [0, 1]
    return _exchanged(args[0], whole, axes, _shape(node))


def _permuted(node: Any, args: list[Any], _: dict[str, Any]) -> Expression:  # noqa: ANN401
    whole = _shape(args[0])
    order = args[1] if isinstance(args[1], (tuple, list)) else args[1:]
    moved = [place for place, axis in enumerate(order) if int(axis) % len(whole) != place]
    if len(moved) != 2:  # noqa: PLR2004 - two axes exchanged
        raise UnrecognisedError
    return _exchanged(args[0], whole, moved, _shape(node))


def _exchanged(of: Any, whole: list[int], axes: list[int], own: list[int]) -> Expression:  # noqa: ANN401
    if axes == [len(whole) - 2, len(whole) - 1]:
        return _turned(_expression(of))
    if axes == [1, 2]:
        return ["shaped", ["swapped", ["shaped", _expression(of), whole]], own]
    raise UnrecognisedError


_OPERATIONS: Final[dict[str, Callable[[Any, list[Any], dict[str, Any]], Expression]]] = {
    "to": _cast,
    **dict.fromkeys(("reshape", "view", "squeeze", "unsqueeze", "flatten"), _shaped),
    "stack": _stack,
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenated),
    "__getitem__": _item,
    **dict.fromkeys(("chunk element", "split element"), _element),
    **dict.fromkeys(("transpose", "swapaxes", "T", "t"), _transposed),
    "permute": _permuted,
}
