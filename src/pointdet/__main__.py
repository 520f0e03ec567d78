# SPDX-License-Identifier: Apache-2.0
"""``python -m pointdet COMMAND``, the same as ``pointdet COMMAND``."""

from pointdet.programs.command_line import main

if __name__ == "__main__":
    main()
