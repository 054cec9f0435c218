"""Where a run's batches come from: prompts that are answered and scored, or recorded pairs."""
