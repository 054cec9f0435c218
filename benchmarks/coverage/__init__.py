"""What the statistics promise against what they keep, in simulations with known truth."""
