"""Which recipes for pre-training beat a fully decayed AdamW on the same budget."""
