# SPDX-License-Identifier: MIT
"""Tests on booted Debian machines; machines.py says how to use them."""
