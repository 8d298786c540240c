"""KERAS.md says what is there now."""

import pytest

pytest.importorskip("keras")

import keras_table


def test_the_table_of_what_keras_has_is_current():
    assert keras_table.FILE.read_text(encoding="utf-8") == keras_table.table(), "Fix: python tests/keras_table.py"
