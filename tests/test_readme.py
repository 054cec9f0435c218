"""What the README names is there, and its examples are what they say."""

from __future__ import annotations

import re
from pathlib import Path

from small_world import SmallWorld

README = Path(__file__).parents[1] / "README.md"


def test_every_file_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (README.parent / link).exists()] == []


def test_the_examples_are_what_they_say(small: SmallWorld, tmp_path: Path) -> None:
    from eval.experiment import Experiment
    from eval.functions import is_pairwise, load_function
    from eval.settings.layers import layered, load_yaml
    from eval.tasks import preset

    folder = README.parent / "examples"
    reward, judge = (
        load_function(f"{folder}/my_reward.py:concise"),
        load_function(f"{folder}/my_reward.py:prefers_questions"),
    )
    assert reward(prompts=["p"], completions=["a b"]) == [0.98]
    assert is_pairwise(judge)
    assert judge(prompts=["p", "p"], a=["yes?", "no"], b=["no", "no"]) == [1.0, 0.5]
    experiment = Experiment.from_dict(layered(preset("reviews"), load_yaml(folder / "experiment.yaml")))
    assert experiment.arms["ppo-many-epochs"].needs.passes == 8
