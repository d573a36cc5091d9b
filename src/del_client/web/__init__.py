"""The page at the gateway's root: a chat, and beside it what leaves this device. docs/page.md shows it.

Plain HTML, CSS and JavaScript in static/, served from the package; nothing is loaded from anywhere else.
"""
