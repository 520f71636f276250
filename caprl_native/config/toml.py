"""TOML text to flat, typed settings that know where they come from.

What a file or a command line gives is a `Source`: it is asked for types of tables first, and for
all of its settings once it is known which keys these types have.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tomli

from caprl_native.config.tree import Leaf, expected, typed
from caprl_native.messages import cut, shown

_LARGEST_FILE = 2**20  # bytes of a config file; that of the longest recipe has 3,000
_LONGEST_MESSAGE = 2000  # characters; what it quotes is cut before

RECIPES = Path(__file__).resolve().parents[2] / "train_configs"
COMMAND_LINE = "command line"
_BASE = "base"  # the key of the files that a file is laid over


class ConfigError(Exception):
    """A setting that cannot be used: where it stands, its dotted key, and what was expected.

    The message is one printable line, whatever was found in a file.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(cut(message, _LONGEST_MESSAGE))


class Origins(dict[str, str]):
    """Dotted key -> where its value was set: "file:line" or "command line"."""

    def of(self, key: str) -> str:
        """The place of a key, or of the table that holds it; "default" if it was never set."""
        while key:
            if key in self:
                return self[key]
            key = key.rpartition(".")[0]
        return "default"


class Known:
    """The keys that may be set, and what is said of those that may not.

    `moved`: old key -> new key, and after "; " what else to know; a table's old name ends with a
    dot. `named`: tables in which any
    name may stand for a table. `foreign`: what is wrong with the key of a table of a chosen type,
    where it is another type's (empty: nothing is known).
    """

    def __init__(
        self,
        leaves: Mapping[str, Leaf],
        moved: Mapping[str, str],
        named: Collection[str],
        foreign: Callable[[str], str],
    ) -> None:
        self.leaves, self.moved, self.named, self.foreign = leaves, moved, named, foreign
        self.tables = {key[:i] for key in leaves for i, c in enumerate(key) if c == "."} | {*named}

    def refuse_moved(self, where: str, key: str) -> None:
        """Raises ConfigError for a key that has another name now."""
        for old, new in self.moved.items():
            if key == old or (old.endswith(".") and f"{key}.".startswith(old)):
                new, semicolon, note = new.partition("; ")
                new += key[len(old) :] if old.endswith(".") else ""
                raise ConfigError(f'{where}: {key}: is now "{new.rstrip(".")}"{semicolon}{note}')

    def nearest(self, key: str) -> str:
        """The valid key that a mistyped one most likely stands for."""
        table, _, name = key[:100].replace("-", "_").rpartition(".")
        words = name.replace("_", " ").lower()

        def likeness(candidate: str) -> float:
            its_table, _, its_name = candidate.rpartition(".")
            score = difflib.SequenceMatcher(None, name, its_name).ratio()
            if len(words) > 4 and words in self.leaves[candidate].help.lower():
                score = max(score, 0.7)  # learning_rate: "Peak learning rate of AdamW."
            return score + 0.3 * difflib.SequenceMatcher(None, table, its_table).ratio()

        return max(self.leaves, key=likeness)

    def unknown(self, where: str, key: str) -> ConfigError:
        """The error for a key that may not be set."""
        if problem := self.foreign(key):
            return ConfigError(f"{where}: {cut(key)}: {problem}")
        return ConfigError(f'{where}: {cut(key)}: unknown key; did you mean "{self.nearest(key)}"?')


def wrong_type(where: str, leaf: Leaf, value: Any) -> ConfigError:
    """The error for a value that does not fit its field."""
    found = str(value).lower() if isinstance(value, bool) else shown(value)
    return ConfigError(f"{where}: {leaf.key}: expected {expected(leaf.type)}, found {found}")


class Source(Protocol):
    """Where settings come from: a file, or the command line."""

    def given(self, leaf: Leaf) -> Any:
        """The value of one setting, None if it is not set. Raises ConfigError for a wrong type."""
        ...

    def names(self, table: str) -> list[str]:
        """The tables that it has within a table."""
        ...

    def where(self, key: str) -> str:
        """The place where a key is set."""
        ...

    def settings(self, known: Known) -> Iterator[tuple[str, Any]]:
        """All of (key, value). Raises ConfigError for an unknown key and for a wrong type."""
        ...


# --- files ------------------------------------------------------------------------------------


def locate(name: str | Path, folder: Path = Path()) -> Path:
    """The config file of that name; a bare name is looked up in `folder`, then among the recipes.

    `folder`: where relative names start; by default the current one.
    """
    path = Path(os.path.expanduser(name))  # unlike Path's, also of a user who is not there
    bare = not path.is_absolute() and len(path.parts) < 2
    places = [folder / path, RECIPES / path] if bare else [folder / path]
    for place in places:
        if os.path.isfile(place):  # unlike Path.is_file, also where the name is too long
            return place
    looked = " or ".join(str(Path.cwd() / place) for place in places)
    raise ConfigError(
        f"{cut(str(name))}: expected a config file at {cut(looked, 500)}; there is none"
    )


def files_of(names: Sequence[str | Path]) -> list[File]:
    """The files of these names, each after those that it names as its `base`.

    Raises ConfigError: a file is missing, cannot be read, or is a base of itself.
    """
    return [file for name in names for file in _on_its_bases(locate(name), ())]


def _on_its_bases(path: Path, above: tuple[Path, ...]) -> Iterator[File]:
    """`above`: the files, resolved, that this one is a base of."""
    file = File(path)
    for name in file.bases:
        try:
            base = locate(name, path.parent)
        except ConfigError as error:
            raise ConfigError(f"{file.where(_BASE)}: {_BASE}: {error}") from error
        chain = (*above, path.resolve())
        if base.resolve() in chain:
            round_trip = " -> ".join(p.name for p in (*chain, base.resolve()))
            raise ConfigError(
                f"{file.where(_BASE)}: {_BASE}: expected another file, found {shown(name)}, which "
                f"is based on this one ({round_trip})"
            )
        yield from _on_its_bases(base, chain)
    yield file


class File:
    """The settings of one TOML file, and the line of each.

    `bases`: the files that it is laid over, as it names them in `base`. Raises ConfigError: it
    cannot be read, or is no TOML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text, self._document = _read(path)
        self._lines = key_lines(text)
        found = self._document.pop(_BASE, [])
        try:
            self.bases: list[str] = typed(list[str], [found] if isinstance(found, str) else found)
        except ValueError:
            raise ConfigError(
                f"{self.where(_BASE)}: {_BASE}: expected a config file's name, or a list of such "
                f"names, found {shown(found)}"
            ) from None

    def where(self, key: str) -> str:
        return f"{self.path}:{_line_of(key, self._lines)}"

    def _at(self, key: str) -> Any:
        found: Any = self._document
        for name in key.split("."):
            if not isinstance(found, dict) or name not in found:
                return None
            found = found[name]
        return found

    def given(self, leaf: Leaf) -> Any:
        value = self._at(leaf.key)
        return None if value is None else self._typed(leaf, value)

    def names(self, table: str) -> list[str]:
        found = self._at(table)
        inside = found.items() if isinstance(found, dict) else ()
        return [name for name, value in inside if isinstance(value, dict)]

    def settings(self, known: Known) -> Iterator[tuple[str, Any]]:
        for key, value in _flat(self._document, known.tables):
            yield key, self._checked(key, value, known)

    def _checked(self, key: str, value: Any, known: Known) -> Any:
        if key in known.leaves:
            return self._typed(known.leaves[key], value)
        where = self.where(key)
        table = key in known.tables
        if not table and isinstance(value, dict) and value:  # [polcy] or lr.x = 1: the key inside
            key = f"{key}.{next(iter(value))}"
        known.refuse_moved(where, key)
        if table or key.rpartition(".")[0] in known.named:
            raise ConfigError(f"{where}: {key}: expected a table, [{key}], found {shown(value)}")
        raise known.unknown(where, key)

    def _typed(self, leaf: Leaf, value: Any) -> Any:
        try:
            return typed(leaf.type, value)
        except ValueError:
            raise wrong_type(self.where(leaf.key), leaf, value) from None


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise ConfigError(f"{path}: is no config file: it has {size:,} bytes")
        text = path.read_bytes().decode("utf-8")
        return text, tomli.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    except tomli.TOMLDecodeError as error:
        raise _syntax_error(path, error) from error
    except RecursionError as error:
        raise ConfigError(
            f"{path}: not valid TOML: lists or tables are nested too deeply"
        ) from error
    except ValueError as error:  # Python reads no integer of thousands of digits
        raise ConfigError(f"{path}: not valid TOML: a number has thousands of digits") from error


def _syntax_error(path: Path, error: tomli.TOMLDecodeError) -> ConfigError:
    line = min(error.lineno, max(1, len(error.doc.splitlines())))  # of a text that ends too early
    return ConfigError(
        f"{path}:{line}: not valid TOML: {error.msg}; expected: key = value, or [table]"
    )


def _flat(
    table: dict[str, Any], tables: Collection[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) down to the schema's fields; unknown tables come out as they are."""
    for name, value in table.items():
        key = prefix + name
        if key in tables and isinstance(value, dict):
            yield from _flat(value, tables, key + ".")
        else:
            yield key, value


# --- lines ------------------------------------------------------------------------------------

_PART = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)"""
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({_DOTTED})[ \t]*\]")
_KEY = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_BLANK = re.compile(r"(?:[ \t\r]*\n)*")
_TOKEN = re.compile(  # strings, comments and brackets: all that decides where a value ends
    r'"""(?:[^\\]|\\.)*?"""|'
    + r"'''.*?'''|"
    + r'"(?:[^"\\\n]|\\.)*"|'
    + r"'[^'\n]*'|#[^\n]*|[\[\]{}]|\n",
    re.DOTALL,
)


def key_lines(text: str) -> dict[str, int]:
    """Dotted key -> the line (from 1) where it is set, tables included. `text` is valid TOML.

    tomli gives values without positions. A key or a header starts a line outside of any value;
    keys inside inline tables are left to the line of their table.
    """
    lines: dict[str, int] = {}
    table = ""
    position, line = 0, 1
    while position < len(text):
        if header := _HEADER.match(text, position):
            table = _plain(header[1]) + "."
            line_of_match = line + text.count("\n", position, header.start(1))
            lines.setdefault(table[:-1], line_of_match)
            end = _end_of_line(text, header.end())
        elif key := _KEY.match(text, position):
            line_of_match = line + text.count("\n", position, key.start(1))
            lines[table + _plain(key[1])] = line_of_match
            end = _end_of_value(text, key.end())
        else:
            end = _end_of_line(text, position)
            end = _BLANK.match(text, end).end()  # type: ignore[union-attr]
        line += text.count("\n", position, end)
        position = end
    return lines


def _plain(dotted: str) -> str:
    return ".".join(p.strip("\"'") for p in re.findall(_PART, dotted))


def _end_of_line(text: str, position: int) -> int:
    found = text.find("\n", position)
    return len(text) if found < 0 else found + 1


def _end_of_value(text: str, position: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(text, position):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        elif token[0] == "\n" and depth == 0:
            return token.end()
    return len(text)


def _line_of(key: str, lines: Mapping[str, int]) -> int:
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 1)


# --- command line -----------------------------------------------------------------------------


class CommandLine:
    """The settings in `--table.key value` and `--table.key=value`; the last of a key wins.

    Raises ConfigError: a word is no setting's name.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._texts: dict[str, str | None] = {}  # None: no value follows
        rest = list(tokens)
        while rest:
            token = rest.pop(0)
            if not token.startswith("--") or token == "--":
                raise ConfigError(f"{COMMAND_LINE}: {shown(token)}: expected --table.key value")
            key, has_value, text = token[2:].partition("=")
            follows = rest and not rest[0].startswith("--")
            self._texts[key] = text if has_value else rest.pop(0) if follows else None

    def where(self, key: str) -> str:
        return COMMAND_LINE

    def given(self, leaf: Leaf) -> Any:
        return self._value(leaf) if leaf.key in self._texts else None

    def names(self, table: str) -> list[str]:
        inside = (key[len(table) + 1 :] for key in self._texts if key.startswith(f"{table}."))
        return list(dict.fromkeys(key.partition(".")[0] for key in inside if "." in key))

    def settings(self, known: Known) -> Iterator[tuple[str, Any]]:
        for key in self._texts:
            if key not in known.leaves:
                known.refuse_moved(COMMAND_LINE, key)
                raise known.unknown(COMMAND_LINE, key)
            yield key, self._value(known.leaves[key])

    def _value(self, leaf: Leaf) -> Any:
        """TOML; for texts and single choices also the bare word."""
        text = self._texts[leaf.key]
        if text is None:
            kind = expected(leaf.type)
            raise ConfigError(f"{COMMAND_LINE}: {leaf.key}: expected {kind}, found no value")
        try:
            return typed(leaf.type, tomli.loads(f"value = {text}")["value"])
        except (ValueError, KeyError, RecursionError):  # no TOML, or another type's
            pass
        try:
            return typed(leaf.type, text)
        except ValueError:
            raise wrong_type(COMMAND_LINE, leaf, text) from None
