# SPDX-License-Identifier: Apache-2.0
"""The one exception that is shown to a user as a sentence instead of a traceback."""


class PointDetError(Exception):
    """Something outside the program is wrong; the message names the file or key and the mend."""
