"""The batches of a task: from arrays in memory, in buckets of similar lengths, or read in order."""
