"""The VAE: `model` is the plain way, `gpu` and `kernels` are a faster one to the same numbers."""
