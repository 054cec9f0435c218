"""What a plan needs to know of the user's model and data, without loading weights."""

from __future__ import annotations

from algos import UserError
from algos.engine.errors import one_line
from algos.engine.text import encode_prompt
from eval.data import load_pairs, load_prompts, split_rows
from eval.experiment import Experiment
from eval.plan import Shape
from eval.tasks.custom.inputs import require_inputs


def shape(experiment: Experiment) -> tuple[Shape, int | None]:
    """Parameters from the model's configuration, tokens a prompt from the data; the number of pairs, if known."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    name, trusted = require_inputs(experiment), experiment.trust_remote_code
    try:
        with torch.device("meta"):  # shapes without weights
            config = AutoConfig.from_pretrained(name, trust_remote_code=trusted)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trusted)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read a causal language model at {name!r}: {one_line(error)}") from error
    source = experiment.prompts or experiment.pairs or ""
    load = load_prompts if experiment.prompts else load_pairs
    rows, _ = load(source, experiment.columns, experiment.on_bad_row)
    some = [len(encode_prompt(tokenizer, row.values["prompt"])) for row in rows[:256]]
    parameters = sum(p.numel() for p in model.parameters())
    pairs = (
        len(split_rows(rows, needed=("train",)).train)
        if experiment.pairs and not experiment.prompts
        else None
    )
    learned = 0 if experiment.reward else parameters
    return Shape(
        parameters, learned, sum(some) / len(some), float(experiment.sampling.max_new_tokens)
    ), pairs or experiment.sampled_pairs
