"""Rows of Parquet with embedded images: an epoch in random order against one in order.

Ten row groups of 100 images of 500 kB (noise, which no codec makes smaller). The sides take turns,
each with the file newly opened: in order; in random order with an empty folder for what is decoded;
in random order with what an earlier epoch left there. A tenth of an epoch in random order without
such a folder is timed once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from common import summary

from caprl_native.data.loader import epoch_order
from caprl_native.data.records import Records, read_records

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
QUESTION = {"question": "Which?", "choices": ["red", "blue"], "answer": "A"}


def write(path: Path, groups: int, rows: int, size: int) -> None:
    """A file of so many row groups, rows in each, and bytes of an image."""
    truth = pa.array([json.dumps([QUESTION])] * rows)
    writer = None
    for _ in range(groups):
        images = pa.array([{"bytes": os.urandom(size), "path": None} for _ in range(rows)], FILE)
        table = pa.table({"image": images, "questions": truth})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def seconds(records: Records, order: Sequence[int]) -> float:
    """Of reading all these rows."""
    began = time.perf_counter()
    for i in order:
        assert records[int(i)].media[0].data
    return time.perf_counter() - began


def epoch(file: Path, folder: Path | None, order: Sequence[int]) -> float:
    records = read_records([file])
    if folder:
        records.keep_decoded(folder)
    return seconds(records, order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--bytes", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        file, folder = Path(name, "images.parquet"), Path(name, "cache")
        write(file, options.groups, options.rows, options.bytes)
        n = options.groups * options.rows
        found: dict[str, list[float]] = {"in order": [], "random, first": [], "random, later": []}
        for repeat in range(options.repeats):
            shuffled = epoch_order(n, seed=0, epoch=repeat).tolist()
            shutil.rmtree(folder, ignore_errors=True)
            found["in order"].append(epoch(file, None, range(n)))
            found["random, first"].append(epoch(file, folder, shuffled))
            found["random, later"].append(epoch(file, folder, shuffled))
        without = 10 * epoch(file, None, shuffled[: n // 10])
    base = statistics.median(found["in order"])
    for side, values in found.items():
        told = summary(values)
        print(
            f"{side:14} {told['median']:6.2f} s ({told['min']:.2f} to {told['max']:.2f}), "
            f"{told['median'] / base:.2f} x in order"
        )
    print(
        f"{'random, no folder':14} {without:6.2f} s from a tenth, {without / base:.1f} x in order"
    )


if __name__ == "__main__":
    main()
