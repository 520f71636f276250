"""One registry per thing that people add: a loss, a reward term, a family, a benchmark, ...

    LOSSES: Registry[Loss] = Registry("loss", "caprl_native.algorithm.losses")

    class PPO(Options):
        type: Literal["ppo"] = "ppo"
        clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below 1 - this.")

    @LOSSES.register(PPO)
    def ppo(...): ...

An entry is found because its file lies in the registry's package, or because a module that the
config names under `plugins` registers it. Nothing here imports torch, so that `--help` can list
every entry with its options in no time.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

E = TypeVar("E")


class Options(BaseModel):
    """The settings of an entry: a config table whose `type` names the entry.

    Every field has a default, its bounds, and one sentence as its `description`.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    type: str

    def conflicts(self) -> Iterator[tuple[str, ...]]:
        """Of the fields that contradict each other: one, what is expected of it, and the others.

        Asked once the whole config is known, since fields are set one by one.
        """
        yield from ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Fields that cannot be meant, each with why; what they hold is not shown: keys, say."""
        yield from ()

    def lacks(self) -> Iterator[tuple[str, str]]:
        """Fields that name what this machine lacks (files, keys), each with what is wrong."""
        yield from ()


@dataclass(frozen=True)
class Entry(Generic[E]):
    """What is registered under a name, and the class of its settings."""

    name: str
    value: E
    options: type[Options]

    @property
    def summary(self) -> str:
        """The first sentence of its documentation."""
        text = self.options.__doc__ or self.value.__doc__ or ""
        return " ".join(text.split()).split(". ")[0].rstrip(".")


class Registry(Generic[E]):
    """Entries by name. `kind` is the word for one in messages; `package` is searched for them."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, Entry[E]] = {}
        self._searched = False

    def register(self, options: type[Options]) -> Callable[[E], E]:
        """Registers what it decorates under the default of the options' `type`.

        Raises:
            ValueError: the name is taken, by something that another module defines.
        """

        def enter(value: E) -> E:
            self.add(options.model_fields["type"].default, value, options)
            return value

        return enter

    def add(self, name: str, value: E, options: type[Options] = Options) -> None:
        """Registers a value under a name, by itself without settings.

        Raises:
            ValueError: the name is taken, by something that another module defines.
        """
        taken = self._entries.get(name)
        if taken and getattr(taken.value, "__module__", "") != getattr(value, "__module__", ""):
            raise ValueError(f"the {self.kind} {name!r} is registered twice")
        self._entries[name] = Entry(name, value, options)

    def __getitem__(self, name: str) -> Entry[E]:
        """Raises KeyError for an unknown name; its message lists the known ones."""
        self._search()
        if name not in self._entries:
            raise KeyError(f"unknown {self.kind} {name!r}; valid: {', '.join(self)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._search()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        self._search()
        return iter(sorted(self._entries))

    def _search(self) -> None:
        if self._searched:
            return
        self._searched = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")


PLUGINS: list[str] = []  # what `load_plugin` has imported here, for processes that this one starts


def load_plugin(name: str) -> None:
    """Imports a module ("my_package.rewards"), or a Python file ("my_loss.py"), once.

    Raises:
        ImportError: there is no such module or file.
    """
    if not name.endswith(".py"):
        importlib.import_module(name)
        _remember(name)
        return
    path = Path(name).expanduser().resolve()
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", "") == str(path):
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that what it defines can be pickled
    spec.loader.exec_module(module)
    _remember(str(path))


def _remember(name: str) -> None:
    if name not in PLUGINS:
        PLUGINS.append(name)


def imported(path: str) -> object:
    """What an import path names: "package.module:attribute", or "file.py:attribute".

    Raises:
        ImportError: there is no such module, file or attribute.
    """
    module, _, attribute = path.rpartition(":")
    if not module or not attribute:
        raise ImportError(f"expected package.module:name, found {path!r}")
    load_plugin(module)
    found = sys.modules[Path(module).stem if module.endswith(".py") else module]
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ImportError(f"{module} has no {attribute!r}")
        found = getattr(found, name)
    return found
