"""In-house attacks, and adapters for those of other libraries: one file each."""
