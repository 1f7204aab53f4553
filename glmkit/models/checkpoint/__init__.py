"""Model folders in the published layout, and adapters."""
