"""What is watched of a run while it works: totals folded from ledgers, metrics for Prometheus, bounds that stop it."""
