"""CLIP: what training and evaluation need of open_clip's format. Importing this loads neither torch nor open_clip."""

from glmkit.models.clip.model import CONFIG, PREFIX, WEIGHTS, ClipModel, check, create, load, save, tokenizer_of

__all__ = ["CONFIG", "PREFIX", "WEIGHTS", "ClipModel", "check", "create", "load", "save", "tokenizer_of"]
