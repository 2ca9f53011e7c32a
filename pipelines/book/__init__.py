"""The book: its pages, and the reference that is written from the code."""
