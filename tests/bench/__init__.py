# SPDX-License-Identifier: MIT
"""`make bench`: what textgate costs. Two parts, each with results as JSON and as a table in build/bench.

    login_path      CPU and wall time of one PAM authentication, ours and others, in one interleaved run
    daemon_load     logins a second, latencies, CPU and memory of textgated under a closed loop of logins
    daemon_profile  where textgated's CPU time goes, in a run of its own (py-spy)
    setting         the users, phones, configuration and servers that these need, in a private world
    native, stats, machine, report     C programs built, numbers summed up, where it ran, what is written

The load generators are in C (native/), so that on two cores they leave the processor to what is measured. No result
fails the run: a bar is printed as PASS or MISS, for times depend on the machine and on what else runs there.
"""
