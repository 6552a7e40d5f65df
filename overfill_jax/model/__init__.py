"""The one transformer that is both full model and decoder, and the cache that joins the two."""
