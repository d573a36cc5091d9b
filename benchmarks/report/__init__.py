"""What benchmarks leave behind: results.py is the data, machine.py where it was measured, the rest how people read it.

Knows nothing of what is measured.
"""
