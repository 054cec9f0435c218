"""The built-in task: film reviews, with a base model, preference pairs, a proxy reward and a gold judge of its own."""
