"""One file a suite; each has `load() -> list[Prompt]`."""
