# SPDX-License-Identifier: MIT
"""Fuzzing (`make fuzz`): everything that reads bytes from outside is fed junk that a coverage guide improves.

    targets      what is fed, and what must hold whatever it is fed; plain functions of bytes
    corpus/      inputs that reached something new, one file a target, one input a line
    __main__     unpacks the corpus, runs each target for its share of the time, keeps what is new if asked to
    child        one target under atheris (libFuzzer)

`tests/unit/test_fuzz_corpus.py` runs the corpus through the targets without atheris, with every change.
"""
