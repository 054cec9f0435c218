"""What a plan needs to know of the user's model and data, without loading weights."""

from __future__ import annotations

from algos import UserError
from algos.engine.errors import one_line
from algos.engine.models.loading import read_config, read_tokenizer, saved_adapter
from algos.engine.text.tokens import encode_prompt
from eval.data import Row, load_pairs, load_prompts, split_rows
from eval.experiment import Experiment
from eval.functions import require_function
from eval.plan import Sizes
from eval.settings.paths import readable
from eval.tasks.custom.inputs import halves, require_inputs, wants_columns
from eval.tasks.fingerprints import names_function

SAMPLED = 256  # rows whose prompts are counted


def sizes(experiment: Experiment, quick: bool = False) -> Sizes:
    """Parameters from the configurations, tokens a prompt from the data's first rows.

    `quick`: from these rows alone, bad ones left out, and without the number of pairs.
    """
    name, trusted = require_inputs(experiment), experiment.trust_remote_code
    parameters, trunk = _parameters(name, trusted)
    tokenizer = read_tokenizer(name, trusted)
    rows = _rows(experiment, quick)
    some = [len(encode_prompt(tokenizer, row.values["prompt"])) for row in rows[:SAMPLED]]
    reward = _scorer(readable(experiment.reward), "reward") if experiment.reward else parameters
    judge = 0 if experiment.reward_judges else reward
    if experiment.judge and not experiment.reward_judges:
        judge = _scorer(readable(experiment.judge), "judge")
    return Sizes(
        parameters=parameters,
        trunk_parameters=trunk,
        reward_parameters=reward,
        judge_parameters=judge,
        prompt_tokens=sum(some) / len(some),
        longest_prompt=max(some),
        response_tokens=float(experiment.sampling.max_new_tokens),
        adapters=experiment.lora or saved_adapter(name) is not None,
        pairs=None if quick else _pairs(experiment, rows),
    )


def _rows(experiment: Experiment, quick: bool) -> list[Row]:
    """Of the file of prompts, or of pairs without one."""
    source = readable(experiment.prompts or experiment.pairs or "")
    asked = (
        source,
        experiment.columns,
        "skip" if quick else experiment.on_bad_row,
        SAMPLED if quick else None,
    )
    if experiment.prompts:
        return load_prompts(*asked)[0]
    return load_pairs(*asked, other_columns=wants_columns(experiment))[0]


def _pairs(experiment: Experiment, rows: list[Row]) -> int:
    """Recorded pairs of training prompts, less those that a judge is learned from; or what is sampled without any.

    `rows`: of the file of prompts, or of pairs without one.
    """
    if not experiment.pairs:
        return experiment.sampled_pairs
    columns, on_bad_row = experiment.columns, experiment.on_bad_row
    if experiment.prompts:
        rows, _ = load_pairs(readable(experiment.pairs), columns, on_bad_row)
    test = None
    if experiment.test_prompts:
        given, _ = load_prompts(readable(experiment.test_prompts), columns, on_bad_row)
        test = [row.values["prompt"] for row in given]
    pairs = [row.values for row in split_rows(rows, test, needed=("train",)).train]
    return len(pairs if experiment.reward or experiment.judge else halves(pairs)[0])


def _parameters(name: str, trusted: bool) -> tuple[int, int]:
    """Of the whole model, and of it without its head."""
    import torch
    from transformers import AutoModelForCausalLM

    config = read_config(name, trusted)
    try:
        with torch.device("meta"):  # shapes without weights
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read a causal language model at {name!r}: {one_line(error)}") from error
    whole, trunk = (sum(p.numel() for p in part.parameters()) for part in (model, model.base_model))
    return whole, trunk


def _scorer(spec: str, what: str) -> int:
    """Parameters of a reward or judge that is a model; 0 for a function. Raises UserError where there is neither."""
    import torch
    from transformers import AutoModelForSequenceClassification

    if names_function(spec, what):
        require_function(spec, what)
        return 0
    config = read_config(spec, trust_remote_code=False)
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read a reward model at {spec!r}: {one_line(error)}") from error
    return sum(p.numel() for p in model.parameters())
