# SPDX-License-Identifier: Apache-2.0
"""The exit status and the error line of a program."""

import pytest

from pointdet.errors import PointDetError
from pointdet.programs.run import run_program


def ended(main):
    """The exit status of the program."""
    with pytest.raises(SystemExit) as raised:
        run_program(main)
    return raised.value.code


def raising(error):
    def main():
        raise error

    return main


def test_errors_become_one_line_and_a_status(capfd):
    assert ended(lambda: None) == 0
    assert ended(lambda: 143) == 143
    assert capfd.readouterr() == ("", "")
    assert ended(raising(PointDetError("x is damaged; download it again"))) == 2
    assert capfd.readouterr() == ("", "error: x is damaged; download it again\n")
    assert ended(raising(KeyboardInterrupt())) == 130
    assert capfd.readouterr() == ("", "interrupted\n")
    assert ended(raising(BrokenPipeError())) == 141
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        run_program(raising(ZeroDivisionError()))


def test_ctrl_c_inside_the_graph(capfd):
    """NNabla turns it into a SystemError."""
    import nnabla as nn
    from nnabla.function import PythonFunction

    class Interrupted(PythonFunction):
        name = "Interrupted"

        def min_outputs(self):
            return 1

        def setup_impl(self, inputs, outputs):
            outputs[0].reset_shape(inputs[0].shape, True)

        def forward_impl(self, inputs, outputs):
            raise KeyboardInterrupt

    output = Interrupted(nn.Context())(nn.Variable((2,)))
    assert ended(output.forward) == 130
    assert capfd.readouterr().err.endswith("interrupted\n")
    with pytest.raises(SystemError):
        run_program(raising(SystemError("another reason")))
