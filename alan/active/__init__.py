"""Active learning: Monte-Carlo dropout, acquisition functions, choice of a batch, the loop and the ranked list."""
