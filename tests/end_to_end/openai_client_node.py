#!/usr/bin/env python3
"""What OpenAI's own package for Node sees of holod: the tests are in openai_client.mjs.

openai_client_node.py --node PATH --holod PATH --model DIRECTORY --environment FOLDER

The package comes from npm's registry into FOLDER, once; where that cannot be had, the test is skipped (exit code 77).
"""

import argparse
import json
import os
import re
import shutil

from environment import make
from harness import main, run
from texts import TextServer

PACKAGE = "openai@6.49.0"


def test_of(name, wanted):
    """One test of openai_client.mjs, with a server that is started as it wants."""
    def test(_, a):
        with TextServer(a, *wanted) as server:
            run(a.node, a.program, name, server.addresses["http"], timeout=600)
    test.__name__ = re.sub("[A-Z]", lambda letter: "_" + letter.group().lower(), name)
    return test


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", default="node")
    parser.add_argument("--holod", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--environment", required=True)
    arguments = parser.parse_args()
    folder = os.path.abspath(arguments.environment)
    make(folder, [PACKAGE], ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts",
                             "--fetch-retries=1", "--loglevel=error", PACKAGE])
    # Node looks for packages beside the program. Another build folder's test may be reading it.
    arguments.program = os.path.join(folder, "openai_client.mjs")
    own = shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "openai_client.mjs"),
                      f"{arguments.program}.{os.getpid()}")
    os.replace(own, arguments.program)
    listed = json.loads(run(arguments.node, arguments.program, "--list").stdout)
    main([test_of(name, wanted) for name, wanted in listed], arguments)
