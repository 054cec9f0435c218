"""One contestant in a process of its own: `python -m benchmarks.trainers.worker FOLDER CONTESTANT ALGORITHM`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.records import processor, versions
from benchmarks.trainers.gate import Gate
from benchmarks.trainers.worlds import Case


def main(folder: Path, contestant: str, algorithm: str) -> None:
    import torch

    case = Case.read(folder)
    torch.set_num_threads(case.threads)
    if contestant == "TRL":
        from benchmarks.trainers import peers

        run = {"dpo": peers.dpo, "reinforce": peers.rloo}.get(algorithm, peers.ppo)
        run(case, Gate.of_process(machine))
    else:
        from benchmarks.trainers.floors import Rates
        from benchmarks.trainers.ours import ours
        from benchmarks.trainers.phases import Stopwatch

        watch = Stopwatch.of_engine(algorithm, everything=contestant == "phases")
        rates = Rates(case) if contestant == "phases" else None

        def describe() -> dict[str, Any]:
            return machine() | ({"rates": rates()} if rates else {}) | {"phases": watch.taken()}

        ours(case, algorithm, Gate.of_process(describe))


def machine() -> dict[str, Any]:
    """The device and the versions a figure belongs to."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return {"device": device, "versions": versions("torch", "transformers", "trl")}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
