"""The known symptoms of guests on virtiofs: their text, cause and remedy, and the search for them."""
