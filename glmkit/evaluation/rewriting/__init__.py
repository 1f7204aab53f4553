"""Prompts that a language model rewrites before an image is generated; scores stay those of the original prompt."""
