"""Fuzzing of every parser of what a stranger sends or of what lies on disk; docs/fuzzing.md says how it is run."""
