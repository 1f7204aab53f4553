"""The hybrid model as pure modules, one package per component, and the folders that hold their weights.

    autoregressive   prompt tokens -> prior tokens
    semantic_vq      condition image -> its prior tokens
    glyph            quoted texts -> glyph embeddings
    decoder          noise, prior tokens, glyphs, condition images -> latents
    vae              latents <-> pixels
    clip             image-text similarity, for training one
    checkpoint       published folders, shards, adapters
    hybrid           all components of one folder, loaded when they are used

In a component `model` is all of the arithmetic in reading order. Where there are faster ways to the same numbers,
`backends` describes and chooses them, and each is a file beside it.

The letters of shapes, in docstrings and as suffixes of names (`x_BTD`):

    B  batch: sequences, images or samples          L  layers
    T  tokens                                       K  attention heads
    N  image tokens                                 G  key heads, where several query heads share one
    C  channels                                     d  head width
    H  W  rows and columns, of latents or pixels    S  keys that attention reads
    D  width of a token                             V  vocabulary

A module that needs another letter says so at its top. 1 stands for a dimension of one.
"""
