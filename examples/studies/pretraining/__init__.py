"""Which recipes for pre-training beat a fully decayed AdamW on one budget."""
