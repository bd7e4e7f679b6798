# SPDX-License-Identifier: MIT
"""The test rig: a private world (world.py) and the real programs in it, for integration tests and the demo.

    kernel, people     what Python has no function for; who lives in the world
    world              makes the world and runs a command in it; `tests/rig/in-world` is its command
    process, run_as    one program: started, waited for, heard, stopped
    redis_server, daemon, sshd, pam, phone, terminal     the parts, each on its own

`rig.world` and `rig.kernel` need nothing but the standard library, so nothing is imported here.
"""
