"""The report of nightly runs: the histories of all recipes as HTML pages."""
