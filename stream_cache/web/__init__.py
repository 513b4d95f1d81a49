"""HTTP: lookups, probes and metrics."""
