"""From pictures to weights."""
