"""What low-bit state and bfloat16 parameters cost."""
