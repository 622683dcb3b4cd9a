"""Training items: what of a heart is seen, seeded draws of points, batches from processes that read cases."""
