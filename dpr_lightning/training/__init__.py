"""Training: loss, cross-device gathering, gradient cache, and the Lightning module and callbacks around them."""
