"""From prompt to pixels."""
