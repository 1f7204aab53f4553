"""The semantic tokenizer: images to token ids."""
