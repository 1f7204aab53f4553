"""Questions about images: one file per judge (`engines`), and their cached answers."""
