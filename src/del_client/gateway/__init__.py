"""The gateway: OpenAI's HTTP interface on the device, in front of an AsyncClient. docs/gateway.md shows its use.

What is private, what it costs and whether it may leave is decided where it is for every other caller: in session, gate,
policy and protection. Needs the extra packages of `pip install 'del-inference[gateway]'`.
"""
