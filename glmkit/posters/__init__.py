"""The synthetic poster world that nano was trained on: grammar and renderer."""
