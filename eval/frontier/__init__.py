"""The optimal reward–KL frontier: the best any policy could do at each KL, from samples of the policies at hand."""
