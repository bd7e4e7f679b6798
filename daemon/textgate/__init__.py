# SPDX-License-Identifier: MIT
"""textgate: a texted one-time code as the second factor of a Linux login.

Three layers, imports point down only (tests/unit/test_layers.py holds that line):

    shell     server, admin, verifier, dispatcher, cli: starts, wires, listens
    adapters  store, gateway, directory, accounts, credentials, vault, peercred, audit: one outside thing each
    core      everything else: decides, and touches nothing outside (no socket, file, clock, log or Redis)
"""

__version__ = "0.1.0"
