"""A process that runs an embedded database until it is killed: ``embedded_child.py FOLDER BINARIES [UID]``.

It prints one JSON line with the conninfo and the number of the database's process once that is ready.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import structlog
import trio

from mdserver.store.embedded.data_folder import prepare_place, read_pid_file
from mdserver.store.embedded.server import open_embedded


async def main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 3:
        # after the imports: an ordinary user may not be able to read this interpreter's library
        uid = int(sys.argv[3])
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    async with open_embedded(folder, binaries=sys.argv[2], log=structlog.get_logger()) as url:
        found = read_pid_file(prepare_place(folder))
        assert found is not None
        sys.stdout.write(json.dumps({"url": url, "pid": found.pid}) + "\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
