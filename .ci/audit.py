"""Known vulnerabilities of the tested versions (constraints.txt), and what the package index could not tell of.

Exit status 1 for a known vulnerability; 0 where there is none or nothing could be asked, which is said.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

COMMAND = [
    "-m",
    "pip_audit",
    "--requirement",
    "constraints.txt",
    "--no-deps",
    "--disable-pip",
    "--format",
    "json",
]


def main() -> int:
    if importlib.util.find_spec("pip_audit") is None:
        print("audit: nothing was checked: pip-audit cannot be installed from this index.")
        return 0
    done = subprocess.run(
        [sys.executable, *COMMAND, "--progress-spinner", "off"], capture_output=True, text=True
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"audit: nothing was checked: {reason}")
        return 0
    return told(found)


def told(found: list[dict[str, Any]]) -> int:
    """Prints what came of it; returns the exit status."""
    unknown = [package["name"] for package in found if "skip_reason" in package]
    bad = [package for package in found if package.get("vulns")]
    if len(unknown) == len(found):
        print("audit: nothing was checked: this package index tells nothing of vulnerabilities.")
        return 0
    for package in bad:
        names = ", ".join(vulnerability["id"] for vulnerability in package["vulns"])
        print(f"audit: {package['name']} {package['version']}: {names}")
    checked = f"{len(found) - len(unknown)} of {len(found)} packages checked"
    missed = f", not {', '.join(unknown)}" if unknown else ""
    print(f"audit: {checked}{missed}: {len(bad) or 'none'} with a known vulnerability.")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
