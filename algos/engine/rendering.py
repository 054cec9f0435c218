"""Chat templates are programs that come with a model: they run in a process with bounded time and memory."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from algos.engine.errors import RunError, UserError, one_line

MAX_SECONDS = 10.0
"""For one conversation; templates of real models take milliseconds."""
_START_SECONDS = 120.0


def render_template(
    template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], **options: bool
) -> str:
    """The text that transformers' sandbox makes of a template and messages.

    The sandbox keeps a template from files and attributes, not from endless work: nested loops, or a text
    that doubles itself. Time and memory are bounded by the kernel, in another process. Raises UserError
    with what the template said, or where it exceeds a bound.
    """
    global _worker
    if _worker is None or not _worker.usable():
        _worker = _Worker()
    request = {
        "template": template,
        "messages": list(messages),
        "variables": dict(variables),
        "options": options,
    }
    answer = _worker.ask(request | {"seconds": MAX_SECONDS}, MAX_SECONDS)
    if "error" in answer:
        raise UserError(one_line(Exception(answer["error"])))
    return answer["text"]


class _Worker:
    """The other process: started with the first conversation, ended with this one."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("rendering_worker.py")
        self.owner = os.getpid()
        # -P: the folder of the script, full of modules with plain names, is no place to import from.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,  # signals to all of a command's processes are its parent's to handle
        )  # fmt: skip
        atexit.register(self.stop)
        if self._line(_START_SECONDS) != b"ready":
            self.stop()
            raise RunError(f"the process for chat templates did not start: {sys.executable} {script}")

    def usable(self) -> bool:
        """Not after a fork, whose two processes would read each other's answers."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, str]:
        pipe: IO[bytes] | None = self.process.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()
            line = self._line(seconds)
        except BrokenPipeError:  # it is gone
            line = None
        except BaseException:
            # Ctrl-C, or a reward's time is up: the answer would be taken for the next one's.
            self.stop()
            raise
        if line is None:
            self.stop()
            return {"error": f"it did not end within {seconds:g} seconds, or took all memory it was given"}
        answer: dict[str, str] = json.loads(line)
        return answer

    def _line(self, seconds: float) -> bytes | None:
        """The next line, or None where the time is up or the process is gone."""
        pipe = self.process.stdout
        assert pipe is not None
        found, end = bytearray(), time.monotonic() + seconds
        while not found.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(pipe.fileno(), 2**16) if ready else b""
            if not chunk:
                return None
            found += chunk
        return bytes(found[:-1])

    def stop(self) -> None:
        if self.owner != os.getpid():
            return
        self.process.kill()
        self.process.communicate()
        atexit.unregister(self.stop)


_worker: _Worker | None = None
