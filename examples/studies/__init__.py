"""Studies: a question, its runs, and the report that answers it."""
