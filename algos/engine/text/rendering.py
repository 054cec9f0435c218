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
from typing import IO, Any, NamedTuple

from algos.engine.errors import RunError, UserError, one_line

MAX_SECONDS = 10.0
"""For one conversation; templates of real models take milliseconds."""
_START_SECONDS = 120.0


class Conversation(NamedTuple):
    """Messages, and what transformers' renderer is to do besides, such as `add_generation_prompt`."""

    messages: Sequence[Mapping[str, Any]]
    options: Sequence[str] = ()


def render_templates(
    template: str, conversations: Sequence[Conversation], variables: Mapping[str, Any]
) -> tuple[list[str], UserError | None]:
    """The texts that transformers' sandbox makes of a template and conversations, up to the first that fails, and why
    that one does: what the template said, or the bound that it exceeds.

    The sandbox keeps a template from files and attributes, not from endless work: nested loops, or a text
    that doubles itself. Time and memory are bounded by the kernel, in another process: time for each conversation,
    though one message asks for them all, as a message takes longer than its rendering does.
    """
    global _worker
    if _worker is None or not _worker.usable():
        _worker = _Worker()
    request = {
        "template": template,
        "conversations": [(list(messages), list(options)) for messages, options in conversations],
        "variables": dict(variables),
        "seconds": MAX_SECONDS,
    }
    answers = _worker.ask(request, len(conversations), MAX_SECONDS)
    texts = [answer["text"] for answer in answers if "text" in answer]
    if len(texts) == len(conversations):
        return texts, None
    return texts, UserError(one_line(Exception(answers[-1]["error"])))


class _Worker:
    """The other process: started with the first conversation, ended with this one."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("rendering_worker.py")
        self.owner = os.getpid()
        self.unread = bytearray()  # what came behind a line
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

    def ask(self, request: Mapping[str, Any], count: int, seconds: float) -> list[dict[str, str]]:
        """So many answers, each within the given seconds, or fewer, of which the last is an error."""
        pipe: IO[bytes] | None = self.process.stdin
        assert pipe is not None
        answers: list[dict[str, str]] = []
        try:
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()
            while len(answers) < count and (line := self._line(seconds)) is not None:
                answers.append(json.loads(line))
                if "error" in answers[-1]:
                    return answers
        except BrokenPipeError:  # it is gone
            pass
        except BaseException:
            # Ctrl-C, or a reward's time is up: the answer would be taken for the next one's.
            self.stop()
            raise
        if len(answers) < count:
            self.stop()
            why = f"it did not end within {seconds:g} seconds, or took all memory it was given"
            answers.append({"error": why})
        return answers

    def _line(self, seconds: float) -> bytes | None:
        """The next line, or None where the time is up or the process is gone."""
        pipe = self.process.stdout
        assert pipe is not None
        found, end = self.unread, time.monotonic() + seconds
        chunk = bytes(found)
        while b"\n" not in chunk:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(pipe.fileno(), 2**16) if ready else b""
            if not chunk:
                return None
            found += chunk
        line, _, self.unread = found.partition(b"\n")
        return bytes(line)

    def stop(self) -> None:
        if self.owner != os.getpid():
            return
        self.process.kill()
        self.process.communicate()
        atexit.unregister(self.stop)


_worker: _Worker | None = None
