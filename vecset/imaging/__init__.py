"""Images and label maps: files, coordinate frames, classes with names, colours and states. No case files or torch."""
