"""What every other folder may use: atomic files, errors, worker processes, seeded draws. Nothing here is about hearts,
and no other folder is imported."""
