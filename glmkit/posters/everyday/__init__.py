"""The world of what people type: scenes with one to four texts in English or Chinese, and captions in free wording.

`scene` samples what an image shows, `captions` says it in words, `masks` and `render` draw it.
"""
