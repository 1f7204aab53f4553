"""Text in images: one file per OCR engine (`engines`), the processes that run them, and their cached results."""
