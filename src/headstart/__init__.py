"""A head start for small labelled data sets."""
