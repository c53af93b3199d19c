"""Export: programs for a target, and the bundle that carries them."""
