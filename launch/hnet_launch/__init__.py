"""Starting runs on clusters. Starts without torch.

`cluster` and `hostfile` say where, `backends` how one tool is told, `rank` is what every rank runs inside, `attempt`
one run of a tool, `supervise` when to start again, `preflight` whether to start at all; `cli_launch` joins them.
"""
