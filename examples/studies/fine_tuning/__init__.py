"""Whether Adam leads when a pretrained encoder is fine-tuned, and over whom."""
