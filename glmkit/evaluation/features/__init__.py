"""Image features: one file per extractor (`extractors`), features stored on the disk, and distances between them."""
