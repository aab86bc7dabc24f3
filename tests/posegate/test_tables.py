"""Tables at a terminal."""

import pytest

from posegate.tables import print_table

ROW = {"name": "litedeconv-384x288", "input": "384x288", "parameters": 3077882, "note": "a b c d e"}


def test_names_words_and_numbers_stay_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # how rich is told that this is a terminal
    monkeypatch.setenv("COLUMNS", "30")

    print_table("models", [ROW])

    shown = capsys.readouterr().out.split()
    assert {"litedeconv-384x288", "384x288", "3077882"} <= set(shown)


def test_numbers_of_many_columns_stay_whole_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    row = {f"measured_{number}": 1234567.25 + number for number in range(20)}

    print_table("benchmark", [row])

    assert {str(value) for value in row.values()} <= set(capsys.readouterr().out.split())


def test_missing_values_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("models", [ROW, {**ROW, "parameters": None}])

    assert "-" in capsys.readouterr().out.splitlines()[-2].split()


def test_square_brackets_are_only_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("findings", [{"what": "pip install 'posegate[triton]'", "note": "[/foo]"}])

    assert {"'posegate[triton]'", "[/foo]"} <= set(capsys.readouterr().out.split())
