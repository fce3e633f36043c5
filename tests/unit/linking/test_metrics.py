"""When a link's certificates end, as Prometheus reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyb.certificates import make_ca, make_leaf
from hyb.errors import Exit, HybError
from hyb.linking import metrics

NOW = datetime.now(UTC)


def put(root: Path, link: str) -> dict[str, str]:
    folder = root / "link" / link
    folder.mkdir(parents=True)
    ca = make_ca("CA", 100, NOW)
    leaf = make_leaf(ca, "link-server", 10, NOW, hosts=["a.example.com"])
    for name, pair in (("ca", ca), ("server", leaf)):
        (folder / f"{name}.pem").write_bytes(pair.key + pair.certificate)
    return {"HYB_CREDENTIALS": str(root)}


def test_each_certificate_of_each_link_has_its_end_and_no_key_is_told(tmp_path: Path) -> None:
    environ = put(tmp_path, "a.chat")
    put(tmp_path, "b.chat")
    found = metrics.ends(environ)
    assert list(found) == [(link, name) for link in ("a.chat", "b.chat") for name in ("ca", "server")]
    assert abs(found["a.chat", "server"] - (NOW + timedelta(days=10)).timestamp()) < 3600
    text = metrics.text(found)
    assert f'{metrics.EXPIRY}{{link="a.chat",certificate="server"}} {found["a.chat", "server"]}\n' in text
    assert "PRIVATE" not in text


def test_of_two_certificates_in_a_file_the_first_end_counts(tmp_path: Path) -> None:
    environ = put(tmp_path, "a.chat")
    path = tmp_path / "link" / "a.chat" / "ca.pem"
    path.write_bytes(path.read_bytes() + make_ca("older", 3, NOW).certificate)
    assert metrics.ends(environ)["a.chat", "ca"] < (NOW + timedelta(days=4)).timestamp()


def test_no_link_is_an_empty_metric_and_a_damaged_file_an_error(tmp_path: Path) -> None:
    environ = {"HYB_CREDENTIALS": str(tmp_path)}
    assert metrics.ends(environ) == {}
    assert metrics.text({}).endswith(" gauge\n")
    put(tmp_path, "a.chat")
    (tmp_path / "link" / "a.chat" / "server.pem").write_text("nothing")
    with pytest.raises(HybError, match="holds no certificate") as caught:
        metrics.ends(environ)
    assert caught.value.code is Exit.CHECK


def test_a_label_can_t_break_out_of_its_quotes() -> None:
    assert 'link="a\\"b\\\\c\\nd"' in metrics.text({('a"b\\c\nd', "ca"): 1})


def test_the_name_is_the_one_that_the_alerts_ask_for() -> None:
    from hyb.render.deploy.alerts import EXPIRY

    assert metrics.EXPIRY == EXPIRY
