"""Training: loop, losses, sampling, checkpointing."""
