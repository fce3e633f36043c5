"""The state of a service, its key, its port: what is kept, and what is never taken for something else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.serving import Wanted, child, keys, manager, port, service
from hyb.serving.service import Service
from hyb.store import Store


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_DATA_HOME": str(tmp_path / "dätä home")}


def of_process(pid: int, **fields: object) -> Service:
    base = Service(
        "bot", pid, service.start_time(pid) or 0, "127.0.0.1", 8000, "llama.cpp", "", "sha256:x", "k", "l", True
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def test_a_state_is_read_as_it_was_written(environ: dict[str, str]) -> None:
    run = service.folder(environ)
    service.write(run, of_process(os.getpid()))
    assert service.read(run, "bot") == of_process(os.getpid())
    (run / "bot.ready.json").write_text('{"port": 4711}')
    found = service.read(run, "bot")
    assert found and (found.port, found.ready, found.url) == (4711, True, "http://127.0.0.1:4711/v1")
    assert service.names(run) == ["bot"]


def test_a_service_with_a_socket_alone_is_shown_by_its_socket() -> None:
    assert of_process(1, port=-1, unix_socket="/run/bot.sock").url == "unix:/run/bot.sock"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "bot"}', "null"])
def test_a_damaged_state_counts_as_none(environ: dict[str, str], text: str) -> None:
    run = service.folder(environ)
    (run / "bot.json").write_text(text)
    assert service.read(run, "bot") is None
    assert manager.ps(environ) == []
    assert not (run / "bot.json").exists()


def test_a_recycled_pid_is_not_our_process(environ: dict[str, str]) -> None:
    ours = of_process(os.getpid())
    assert service.alive(ours)
    other = replace(ours, started=ours.started - 1)
    assert not service.alive(other)
    service.write(service.folder(environ), other)
    with pytest.raises(HybError, match="nothing called `bot`"):
        manager.stop("bot", environ)  # and this process lives to see it
    assert manager.ps(environ) == []


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    found = of_process(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
    assert service.start_time(process.pid) is None
    assert not service.alive(found)
    process.wait()


def test_a_killed_process_is_gone_from_the_moment_that_its_files_are_closed() -> None:
    """The kernel closes its sockets before it is a zombie: its clients know, and it is still said to run."""
    line = "4711 (python) {} 1 4711 4711 0 -1 {} 100 0 0 0 5 2 0 0 20 0 7 0 1983670 104857600 9000"
    assert service.started_of(line.format("S", 0x400000)) == 1983670
    assert service.started_of(line.format("R", 0x400000 | service.EXITING)) is None
    assert service.started_of(line.format("Z", 0x400000)) is None


def test_a_program_with_blanks_and_parentheses_in_its_name_has_a_start_time(tmp_path: Path) -> None:
    odd = tmp_path / "a) S (b 1 2"
    odd.symlink_to("/bin/sleep")
    process = subprocess.Popen([odd, "30"])
    try:
        assert service.start_time(process.pid) is not None
        assert service.alive(of_process(process.pid))
    finally:
        process.kill()
        process.wait()


def test_a_service_that_ignores_sigterm_is_killed(environ: dict[str, str]) -> None:
    code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    service.write(service.folder(environ), of_process(process.pid))
    assert manager.stop("bot", environ, grace=0.1).pid == process.pid
    assert not service.alive(of_process(process.pid))
    process.stdout.close()
    process.wait()


def test_the_state_never_holds_the_key(environ: dict[str, str]) -> None:
    path = keys.mint(environ, "bot")
    found = of_process(os.getpid(), key_path=str(path))
    assert found.key.startswith("hyb_sk_") and len(found.key) > 40
    assert found.key not in json.dumps(found.as_dict()) + repr(found)


def test_a_key_is_minted_once_and_only_its_owner_reads_it(environ: dict[str, str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: keys.mint(environ, "bot"), range(8)))
    path = paths[0]
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    assert keys.mint(environ, "bot").read_text() == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.mint(environ, "other").read_text() != first


@pytest.mark.parametrize("text", ["", "short", "with a blank in the middle of it", "ключ-ключ-ключ-ключ"])
def test_nothing_is_served_without_a_proper_key(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(child.UnableError, match="no API key"):
        child.read_key(tmp_path / "key")
    with pytest.raises(child.UnableError, match="can't be read"):
        child.read_key(tmp_path / "absent")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1"])
def test_without_tls_only_loopback_is_served_on(tmp_path: Path, environ: dict[str, str], host: str) -> None:
    artifact = Artifact("sha256:" + "a" * 64, "model", meta={"format": "gguf"})
    with pytest.raises(HybError, match="loopback") as caught:
        manager.start(Store(tmp_path / "s"), artifact, Wanted(name="bot", host=host), environ=environ)
    assert caught.value.code is Exit.INPUT


@pytest.mark.parametrize("host", ["example.com", "", "1.2.3"])
def test_a_host_is_an_address(tmp_path: Path, environ: dict[str, str], host: str) -> None:
    with pytest.raises(HybError, match="no IP address"):
        manager.check(Wanted(name="bot", host=host))


def test_with_tls_a_public_address_is_served_on(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("")
    cert = str(tmp_path / "cert.pem")
    manager.check(Wanted(name="bot", host="0.0.0.0", tls_cert=cert, tls_key=cert))
    with pytest.raises(HybError, match="a certificate and its key"):
        manager.check(Wanted(name="bot", host="0.0.0.0", tls_cert=cert))
    with pytest.raises(HybError, match="can't be read"):
        manager.check(Wanted(name="bot", tls_cert=cert, tls_key=str(tmp_path / "absent")))


def test_the_folder_of_sockets_is_short_private_and_goes_with_the_service(environ: dict[str, str]) -> None:
    run, folder = service.folder(environ), service.sockets({"XDG_RUNTIME_DIR": "/" + "x" * 100}, "b" * 63)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(str(folder / "e12345" / "engine.sock")) <= child.SOCKET_PATH
    service.write(run, of_process(os.getpid(), admin_socket=str(folder / "admin.sock")))
    service.forget(run, "bot")
    assert not folder.exists()


def test_no_other_folder_is_ever_removed(environ: dict[str, str], tmp_path: Path) -> None:
    run = service.folder(environ)
    service.write(run, of_process(os.getpid(), admin_socket=str(tmp_path / "admin.sock")))
    service.forget(run, "bot")
    assert tmp_path.exists()


def test_all_mistakes_of_a_call_are_told_at_once(tmp_path: Path, environ: dict[str, str]) -> None:
    artifact = Artifact("sha256:" + "a" * 64, "model", meta={"format": "gguf"})
    with pytest.raises(HybError) as caught:
        manager.start(Store(tmp_path / "s"), artifact, Wanted(name="My Bot", port=70000, host="::"), environ=environ)
    assert len(caught.value.details) == 3
    assert any("70000" in d for d in caught.value.details) and any("My Bot" in d for d in caught.value.details)


@pytest.mark.socket
def test_a_taken_port_names_who_has_it() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.getsockname()[1]
        with pytest.raises(HybError, match=rf"port {number} on 127.0.0.1 is taken by `.+` \(process {os.getpid()}\)"):
            port.check_free("127.0.0.1", number, [])
        ours = of_process(os.getpid(), port=number)
        with pytest.raises(HybError, match="taken by `bot` of hyb") as caught:
            port.check_free("127.0.0.1", number, [ours])
        assert "hyb stop bot" in caught.value.hint
    port.check_free("127.0.0.1", number, [])


def test_no_home_is_said(tmp_path: Path) -> None:
    with pytest.raises(HybError, match="HOME"):
        manager.ps({})
