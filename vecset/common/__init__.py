"""What every other folder may use: whole files, errors, worker processes, seeded draws. Nothing here knows of
hearts, and nothing above is imported."""
