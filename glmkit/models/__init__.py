"""The hybrid model as pure modules, and the checkpoint folder."""
