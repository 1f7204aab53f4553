"""glmkit: run, fine-tune, evaluate and compare GLM-Image models."""

__version__ = "0.1.0"
