"""recbole-mambarec serve: what it refuses, in one sentence."""

import os
import socket

import pytest

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_serving.server import cli
from recbole_mambarec_serving.server.options import image_host, is_loopback, read_token
from tests.server.running import started


def refused(*arguments):
    with pytest.raises(UserError) as error:
        cli.main([*map(str, arguments), "--port=0"])
    return str(error.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com", "", "localhost.example.com"])
def test_other_machines_need_a_token(bundle, host):
    assert "--token-file" in refused(bundle, f"--host={host}")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_addresses_of_this_machine_alone(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "text", ["", "short", "with blanks in it, long enough", "zwölf-ü-Buchstaben-und-mehr", "a\nb" * 20]
)
def test_a_file_without_a_token(bundle, tmp_path, text):
    (tmp_path / "token").write_text(text, encoding="utf-8")
    assert "secrets.token_urlsafe" in refused(bundle, f"--token-file={tmp_path / 'token'}")


def test_a_token_file(bundle, tmp_path):
    assert "cannot be read" in refused(bundle, f"--token-file={tmp_path / 'nothing'}")
    file = tmp_path / "token"
    file.write_text("sixteen-letters-\n", encoding="utf-8")
    assert read_token(str(file)) == b"sixteen-letters-"


@pytest.mark.parametrize(
    "given", ["images.example.com", "https://a b", "https://*", "https://a;script-src *", "ftp://a"]
)
def test_hosts_of_images(given):
    with pytest.raises(UserError, match="--image-host"):
        image_host(given)
    assert image_host("https://Images.example.com:8443/") == "https://images.example.com:8443"


def test_no_bundle_and_no_address(tmp_path, bundle):
    assert "there is no bundle" in refused(tmp_path / "nothing")
    assert "cannot listen" in refused(bundle, "--host=127.0.0.1.999", f"--token-file={_token(tmp_path)}")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="another --port"):
        cli.main([str(bundle), f"--port={taken.getsockname()[1]}"])


@pytest.mark.parametrize(
    "option", ["--port=65536", "--max-k=0", "--timeout=0", "--timeout=nan", "--poll=-1", "--port=x"]
)
def test_numbers_that_are_out_of_bounds(bundle, option, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(bundle), option])
    assert stop.value.code == 2 and option.partition("=")[0] in capsys.readouterr().err


def test_without_the_extra_there_is_one_sentence(bundle, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fastapi", None)
    assert 'pip install "recbole-mambarec[serve]"' in refused(bundle)


def test_options_reach_the_server(bundle, tmp_path):
    """In a process that imports neither torch nor RecBole."""
    token = _token(tmp_path)
    (tmp_path / "torch.py").write_text("raise SystemError('torch is imported')\n")
    (tmp_path / "recbole.py").write_text("raise SystemError('RecBole is imported')\n")
    options = ("--max-k=3", "--max-batch=2", "--max-body=100", "--access-log", f"--token-file={token}")
    images = "--image-host=https://images.example.com"
    log = tmp_path / "log"
    with started(bundle, *options, images, log=log, path=tmp_path) as server:
        assert server.ask("/recommend/u1").status == 401
        shown = {"Authorization": f"Bearer {token.read_text()}"}
        assert len(server.ask("/recommend/u1", **shown).json["recommendations"]) == 3
        assert server.ask("/recommend/u1?k=4", **shown).status == 422
        assert server.ask("/recommend", {"users": ["u1"] * 3}, **shown).status == 422
        assert server.ask("/recommend", {"users": ["u1" * 50]}, **shown).status == 413
        assert "img-src 'self' https://images.example.com;" in server.ask("/").headers["content-security-policy"]
    text = log.read_text(encoding="utf-8")
    assert "GET /recommend/u1?k=4" in text and "Traceback" not in text
    # 0o600 is what nobody else can read
    assert ("can read" in text) == (os.name == "posix" and bool(token.stat().st_mode & 0o044))


def _token(folder):
    file = folder / "token"
    file.write_text("a-token-of-enough-letters", encoding="utf-8")
    return file
