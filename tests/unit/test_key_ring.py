"""The key ring of the settings: what is allowed, and that no key is ever shown."""

import base64
from pathlib import Path

import pytest

from longrun.errors import ConfigurationError
from longrun.key_ring import KeyRing
from longrun.settings import Settings
from longrun.settings.text import as_lines


def encoded(byte: str, length: int = 32) -> str:
    return base64.b64encode(byte.encode() * length).decode()


ONE, TWO = encoded("1"), encoded("2")


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    ring = KeyRing.parse(f" new:{ONE},\nold:{TWO}\n")
    assert [key.id for key in ring.keys] == ["new", "old"]
    assert ring.writes is not None
    assert ring.writes.id == "new"
    assert ring.writes.secret == b"1" * 32


def test_with_plain_in_the_first_place_nothing_is_encrypted() -> None:
    ring = KeyRing.parse(f"plain {'old'}:{TWO}")
    assert [key.id for key in ring.keys] == ["old"]
    assert ring.writes is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no key in it"),
        ("plain", "there is no key in it"),
        (ONE, "entry 1 has no colon"),
        (f"a:{ONE} {TWO}", "entry 2 has no colon"),
        (f"a:{ONE} plain:{TWO}", "the id of entry 2 is not allowed"),
        (f"a/b:{ONE}", "the id of entry 1 is not allowed"),
        (f"{'a' * 33}:{ONE}", "the id of entry 1 is not allowed"),
        ("a:not-base64!", "the key of 'a' is not base64"),
        (f"a:{encoded('s', 16)}", "the key of 'a' has 16 bytes; exactly 32 are needed"),
        (f"a:{ONE} a:{TWO}", "two keys have the id 'a'"),
        (f"a:{ONE} b:{ONE}", "'a' and 'b' are the same key"),
    ],
    ids=lambda value: "" if ONE[:8] in value else value[:24],
)
def test_what_is_wrong_is_said_without_the_key(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(encryption_keys=text)
    message = raised.value.message
    assert message.startswith("LONGRUN_ENCRYPTION_KEYS=(hidden): ")
    assert said in message
    for secret in (ONE, TWO, encoded("s", 16), "not-base64!"):
        assert secret not in message


def test_a_file_has_the_ring(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"new:{ONE}\nold:{TWO}\n")
    settings = Settings.load(encryption_keys_file=file)
    assert [key.id for key in settings.key_ring.keys] == ["new", "old"]


def test_a_file_that_has_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(ConfigurationError, match=r"KEYS_FILE='.*keys': cannot be read: No such"):
        Settings.load(encryption_keys_file=file)
    file.write_text(f"new:{ONE[:-8]}")
    with pytest.raises(ConfigurationError, match=r"KEYS_FILE=.*the key of 'new'") as raised:
        Settings.load(encryption_keys_file=file)
    assert ONE[:-8] not in raised.value.message
    with pytest.raises(ConfigurationError, match="cannot be used together"):
        Settings.load(encryption_keys_file=file, encryption_keys=f"a:{ONE}")


def test_no_text_of_the_settings_shows_a_key() -> None:
    settings = Settings.load(encryption_keys=f"new:{ONE}")
    assert ONE not in as_lines(settings)
    assert ONE not in repr(settings)
    assert "1111" not in repr(settings.key_ring)
