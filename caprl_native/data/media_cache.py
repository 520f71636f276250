"""Row groups of embedded files, kept on disk once decoded, so that any row of them is cheap.

A Parquet page is decoded whole or not at all, and a row group is a few pages: a row at random
costs what all its rows cost. So the first process that needs one of them writes all of them, as an
Arrow file, from which a row is then read where it lies. Nothing but the place of bytes changes: the
order of an epoch stays a function of its seed, and memory holds the pages that are read.

Row groups appear one by one, whole or not at all, so that a killed run goes on with those it has;
the processes of all ranks that share the folder share them.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

RESERVE = 2**30  # bytes of the disk that are left free
_MAPPED = 64  # row groups that are open at a time
_UNREADABLE = (pa.ArrowException, OSError, ValueError)

log = logging.getLogger(__name__)


class MediaCache:
    """The row groups of one data file, in a folder named by its path, size and time."""

    def __init__(self, folder: Path, source: str) -> None:
        stat = os.stat(source)
        identity = f"{os.path.abspath(source)}\0{stat.st_size}\0{stat.st_mtime_ns}"
        digest = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=8)
        self.folder = folder / f"{Path(source).stem[:60]}-{digest.hexdigest()}"
        self._mapped: OrderedDict[int, pa.Table] = OrderedDict()
        self._without: set[int] = set()  # damaged row groups
        self._off = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": OrderedDict()}  # a worker opens the files itself

    def table(
        self, group: int, size: int, batches: Callable[[], Iterator[pa.RecordBatch]]
    ) -> pa.Table | None:
        """A row group, mapped; None where it is damaged, or there is no room for `size` bytes."""
        if group not in self._mapped:
            file = self.folder / f"{group:06d}.arrow"
            table = self._opened(file) or self._written(file, group, size, batches)
            if table is None:
                return None
            self._mapped[group] = table
            if len(self._mapped) > _MAPPED:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(group)
        return self._mapped[group]

    def _opened(self, file: Path) -> pa.Table | None:
        """None where the file is not there, or was cut by a machine that went down."""
        try:
            return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        except _UNREADABLE:
            return None

    def _written(
        self, file: Path, group: int, size: int, batches: Callable[[], Iterator[pa.RecordBatch]]
    ) -> pa.Table | None:
        if self._off or group in self._without:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(file.with_suffix(".lock")):
                if (table := self._opened(file)) is not None:  # another process was faster
                    return table
                if (free := shutil.disk_usage(self.folder).free) < size + RESERVE:
                    self._give_up(f"{free / 2**30:.1f} GiB are free there")
                    return None
                _write(file, batches())
        except _UNREADABLE as error:
            if isinstance(error, OSError) and error.errno:
                self._give_up(error.strerror or str(error))
            else:
                self._without.add(group)  # damaged: who reads its rows is told
            return None
        return self._opened(file)

    def _give_up(self, reason: str) -> None:
        self._off = True
        log.warning(
            "%s: decoded files are not kept any further, rows at random are slow: %s; "
            "data.cache_dir names another folder",
            self.folder,
            reason,
        )


def _write(file: Path, batches: Iterator[pa.RecordBatch]) -> None:
    temporary = file.with_suffix(".tmp")
    try:
        first = next(batches)
        with (
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, first.schema) as writer,
        ):
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
