"""Pretraining of small models such as nano on the synthetic posters of `glmkit.posters`, and ablations of it.

Fine-tuning needs nothing of this: general training never imports it.
"""
