"""Programs that OCR engines run in environments of their own; they import nothing of glmkit."""
