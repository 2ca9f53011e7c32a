"""The book: its pages, the reference generated from the code, and the site."""
