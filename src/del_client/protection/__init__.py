"""Sensitive spans: found on the device, replaced by placeholders or given noise of their own, and put back.

docs/spans.md says what this hides and what it doesn't.
"""
