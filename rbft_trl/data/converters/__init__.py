"""Official annotation files of known data sets → rows of ours: one short function per data set."""
