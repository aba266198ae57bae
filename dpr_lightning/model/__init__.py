"""The bi-encoder: transformers with pooling, tied or untied, saved so that other libraries can load them."""
