"""Sets of images of other models, made by `glmkit reference`, and the distances of a run to them."""
