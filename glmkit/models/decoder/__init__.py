"""The diffusion decoder: `model` is all of its arithmetic, the other modules are fast ways to the same numbers."""
