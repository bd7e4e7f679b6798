# SPDX-License-Identifier: MIT
"""`make sim`: attackers and ordinary days, played against the real module in virtual time.

    world       a fleet on a private Redis: real Verifier and Store; gateway, phones, users and clock are fakes
    people      what people and attackers do, as generators that yield how long they wait
    scenarios   who plays where, and what is measured
    report      the results as tables and as JSON
    page        docs/limits.md: what is in it of the configuration and of the results

Every random number comes from a seed, secrets of users included, so that a run with the same days prints the same.
"""
