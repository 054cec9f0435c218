"""A comparison in which everything from outside is hostile: what the model says, the data, names, and an error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from payloads import HOST, PAYLOADS, RAN
from report_world import World, world
from tiny import gpt2, word_tokenizer

NAME = f"=x;<img src=x onerror=document.title={RAN}> [a](b) `c` \x1b]0;t\x07 \u202egnp"
"""As a folder's name: all but what file systems refuse."""
FAILURE = f"</td><script>document.title={RAN}</script> ![x](http://{HOST}/e.png) \x1b[2J | =1+1"
PAYLOAD = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> [l](javascript:alert(1)) `x` | a |\n```\n# head\n"
    "\x1b]0;title\x07 \u202eevil </style></title></div> http://evil.example"
)
"""What a page, its Markdown, a terminal and a table would each act on, in one text."""

_REWARDS = """
from words import FAILURE

calls = 0

def score(prompts, completions, **columns):
    global calls
    calls += 1
    if calls == {fails_at}:
        raise ValueError(FAILURE)
    return [float(len(text) % 7) for text in completions]

def judge(prompts, completions, **columns):
    return [float(len(text) % 5) for text in completions]
"""


def hostile_comparison(folder: Path) -> tuple[list[str], Path]:
    """Writes model, data and rewards; returns the arguments of a comparison of seconds, and where it will be."""
    home = folder / NAME
    home.mkdir()
    words = [text for text in PAYLOADS if "\ud800" not in text]
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(words)
    gpt2(len(tokenizer), width=16).save_pretrained(home / "model")
    tokenizer.save_pretrained(home / "model")
    rows = [{"prompt": text, "source": text} for text in words if text.strip()]
    (home / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (home / "words.py").write_text(f"FAILURE = {FAILURE!r}\n", encoding="utf-8")
    (home / "rewards.py").write_text(_REWARDS.replace("{fails_at}", "6"), encoding="utf-8")
    out = home / "out"
    return [
        "--model", str(home / "model"), "--prompts", str(home / "prompts.jsonl"),
        "--reward", f"{home / 'rewards.py'}:score", "--judge", f"{home / 'rewards.py'}:judge",
        "--out", str(out), "--cache", str(home / "cache"), "--workers", "1", "--seeds", "1", "--budget", "3iterations",
        "--max-new-tokens", "4", "--prompts-per-iteration", "4", "--sampled-pairs", "32", "--eval.points", "1",
        "--frontier.samples", "0", "--reward-retries", "0",
    ], out  # fmt: skip


def hostile(path: Path) -> World:
    """A stored comparison whose facts, settings and environment are hostile too: every string that can come from outside
    carries the payload."""
    arm = "=evil|<b>`x`</b>"
    made = world(path, {arm: "reinforce", "ppo": "ppo"}, 2, failed=[("ppo", 1)], text=PAYLOAD)
    facts = made.facts | {
        "task": PAYLOAD, "judge": PAYLOAD, "reward": PAYLOAD, "notes": [PAYLOAD], "budget": PAYLOAD,
        "data": [{"file": PAYLOAD, "read": 2, "kept": 1, "reasons": {PAYLOAD: 1}}],
        "stages": [{"name": PAYLOAD, "seconds": 1.0, "flops": 1.0, "cached": True}],
        "arms": {arm: {"algorithm": "reinforce", "settings": {PAYLOAD: PAYLOAD}}},
    }  # fmt: skip
    return replace(
        made,
        facts=facts,
        settings={"model": PAYLOAD, PAYLOAD: [PAYLOAD]},
        environment=made.environment
        | {
            "command": PAYLOAD,
            "started": PAYLOAD,
            "earlier": [{"command": PAYLOAD, "python": PAYLOAD, "runs": 1}],
        },
        samples=made.samples.assign(prompt=PAYLOAD),
        runs=made.runs.assign(error=PAYLOAD, policy=PAYLOAD),
    )
