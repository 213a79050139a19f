"""Files that were changed at random, with checksums that are right: loaded, and run where they load."""
