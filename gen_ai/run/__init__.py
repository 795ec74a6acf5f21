"""The run directory: what is recorded of a run, who may write it, its checkpoints, and where it came from."""
