"""What W&B's offline files of a run hold, and cutting off what a kill left of a record.

`wandb sync` sends a run's files in order and stops for good at one that holds nothing or ends within a record. W&B has no
reader to import. The format is LevelDB's log: a header of 7 bytes, then blocks of 32 KiB; in a block chunks of checksum
(4 bytes), length (2), kind (1: a whole record; 2, 3, 4: its first, a middle, its last part) and data. A record is a protobuf.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
BLOCK_BYTES = 32768
CHUNK = struct.Struct("<IHB")
WHOLE, FIRST, LAST = 1, 2, 4


def read_records(path: Path) -> Iterator[tuple[Any, int]]:
    """Every whole `Record` and the byte at which it ends, up to where the file was torn.

    Raises:
        ValueError: not W&B's log, or one of a version that is not known here.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    if not content.startswith(HEADER) and not HEADER.startswith(content):
        raise ValueError(
            f"{path}: begins with {content[:7]!r} instead of {HEADER!r}; move it away or set tracking.wandb=off"
        )
    at, parts = len(HEADER), b""
    while at + CHUNK.size <= len(content):
        if (left := BLOCK_BYTES - at % BLOCK_BYTES) < CHUNK.size:  # no chunk begins in a block's last bytes
            at += left
            continue
        checksum, length, kind = CHUNK.unpack_from(content, at)
        data = content[at + CHUNK.size : at + CHUNK.size + length]
        if len(data) < length or zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
            return
        at += CHUNK.size + length
        parts = data if kind in (WHOLE, FIRST) else parts + data
        if kind in (WHOLE, LAST):
            yield Record.FromString(parts), at


def repair_files(run_dir: Path, run_id: str) -> int:
    """Leave whole records only, and no folder without one; the last step that the files hold, 0 where they hold none.

    Raises:
        ValueError: a file that cannot be read; the message names it.
    """
    last_step = 0
    for path in sorted(run_dir.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")):
        whole = 0
        for record, end in read_records(path):
            whole = end
            if record.WhichOneof("record_type") == "history":
                last_step = max(last_step, record.history.step.num)
        if not whole:
            shutil.rmtree(path.parent)
        elif whole < path.stat().st_size:
            os.truncate(path, whole)
    return last_step
