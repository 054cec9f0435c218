"""A causal LM from files or the hub, its tokenizer and its frozen reference."""
