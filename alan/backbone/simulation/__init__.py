"""Training on simulation: dense targets of simulated frames."""
