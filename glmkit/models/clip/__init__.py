"""The folder of a small CLIP."""
