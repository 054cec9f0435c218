"""Between conversations, text and token ids."""
