"""Renders chat templates in a process of its own, in which a template may loop or grow without harm.

Run as a script by `rendering.py`: one request a line on the standard input, for each of its conversations an answer a
line on the output, up to the first that is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

MAX_BYTES = 2**30
"""Memory beyond what the process takes before the first template."""
MAX_CHARACTERS = 2**24


def serve() -> None:
    """Answers requests until the input ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    # The answers' own channel: nothing that a library prints can end up among them.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _bound_memory()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        for messages, options in request["conversations"]:
            _bound_time(request["seconds"])
            answer = _answer(render_jinja_template, request, messages, options)
            print(json.dumps(answer), file=answers, flush=True)
            if "error" in answer:
                break


def _answer(render: Any, request: dict[str, Any], messages: list[Any], options: list[str]) -> dict[str, str]:
    try:
        (text,), _ = render(
            conversations=[messages],
            chat_template=request["template"],
            **dict.fromkeys(options, True),
            **request["variables"],
        )
    except Exception as error:  # a template is a program of its own: it can raise anything
        return {"error": str(error) or type(error).__name__}
    if len(text) > MAX_CHARACTERS:
        return {"error": f"it wrote {len(text)} characters; at most {MAX_CHARACTERS} are taken"}
    return {"text": text}


def _bound_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # where there is no such thing
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MAX_BYTES, now + MAX_BYTES))


def _bound_time(seconds: float) -> None:
    """The kernel ends this process where whoever asked is no longer there to do it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + seconds) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    serve()
