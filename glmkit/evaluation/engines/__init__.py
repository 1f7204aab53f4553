"""One file an OCR engine: `identity()` names what decides a reading; `load(threads)` gives the function that reads."""
