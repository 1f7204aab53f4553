"""The glyph encoder: quoted texts to embeddings."""
