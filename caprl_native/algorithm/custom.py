"""An entry from outside: a function that the config names by its import path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from caprl_native.registry import Options, imported

if TYPE_CHECKING:
    from torch import Tensor


class CustomOptions(Options):
    """A function of yours."""

    import_path: str = Field(
        "", description='The function: "package.module:name" or "file.py:name".'
    )
    options: dict[str, Any] = Field({}, description="Passed to it as its second argument.")

    def conflicts(self) -> Iterator[tuple[str, ...]]:
        try:
            function_of(self)
        except ImportError as error:
            yield "import_path", f"a function that can be imported ({error})"


def function_of(options: CustomOptions) -> Callable[..., Any]:
    """The function that the options name.

    Raises:
        ImportError: there is none.
    """
    found = imported(options.import_path)
    if not callable(found):
        raise ImportError(f"{options.import_path} is not a function, but {found!r}")
    return cast(Callable[..., Any], found)


def call(options: CustomOptions, *inputs: object) -> Any:
    """What it returns for the inputs and `options.options`; its errors carry its name."""
    try:
        return function_of(options)(*inputs, options.options)
    except Exception as error:
        error.add_note(f"raised by {options.import_path}, which the config names")
        raise


def of_shape(value: Tensor, like: Tensor, options: CustomOptions) -> Tensor:
    """`value`, which has the shape of `like`. Raises ValueError with the function's name if not."""
    shape = tuple(getattr(value, "shape", ()))
    if shape != tuple(like.shape):
        found = f"a tensor {list(shape)}" if hasattr(value, "shape") else repr(value)
        raise ValueError(
            f"{options.import_path} must return a tensor {list(like.shape)}, not {found}"
        )
    return value
