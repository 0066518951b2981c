"""The file postmaster.pid: what a running server, or one that died, says about itself."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PORT = 5432
"""Only names the socket: nothing listens on TCP."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What the file says. The server may be long gone, and its pid another program's."""

    pid: int
    data_dir: str
    socket_dir: str
    status: str

    @classmethod
    def read(cls, pgdata: Path) -> Self | None:
        try:
            lines = os.fsdecode((pgdata / "postmaster.pid").read_bytes()).split("\n")
        except FileNotFoundError:
            return None
        lines += [""] * (8 - len(lines))  # a server that starts adds the lines one by one
        pid = int(lines[0]) if lines[0].isdecimal() else 0
        return cls(pid, lines[1], lines[4], lines[7].strip())

    def is_pid_taken(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except OSError as error:
            return not isinstance(error, ProcessLookupError)
        return True

    def is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(f"{self.socket_dir}/.s.PGSQL.{PORT}")
            except OSError as error:
                return isinstance(error, BlockingIOError)  # a full queue, but a queue
        return True
