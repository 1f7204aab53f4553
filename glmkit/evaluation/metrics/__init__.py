"""Pure scoring functions; they know no models."""
