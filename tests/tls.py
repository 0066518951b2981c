"""Postgres with TLS: certificates, a server that has some, a TLS end before one that has none."""

import asyncio
import contextlib
import select
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import postgres
from tests.servers import free_port

PASSWORD = "geheim@wort"


class Authority:
    """Signs certificates, and writes each and its key into a folder: `NAME.crt`, `NAME.key`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._write(name, self._signed(name, self._key, authority=True), self._key)

    def sign(self, name: str, *hosts: str, subject: str = "nobody", days: int = 2) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(name, self._signed(subject, key, hosts=hosts, days=days), key)

    def _signed(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        hosts: tuple[str, ...] = (),
        days: int = 2,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(subject))
            .issuer_name(_named(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if hosts:
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(
        self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        pem = serialization.Encoding.PEM
        (self._folder / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
        plain = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self._folder / f"{name}.key").write_bytes(plain)
        (self._folder / f"{name}.key").chmod(0o600)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@contextlib.contextmanager
def certificates() -> Iterator[Path]:
    """A folder with `ca`, `server` (of localhost), `old` (expired), `client`, and another `ca`."""
    folder = Path(tempfile.mkdtemp(prefix="longrun-tls-"))
    folder.chmod(0o755)
    Authority(folder, "other")
    authority = Authority(folder, "ca")
    authority.sign("server", "localhost")
    authority.sign("old", "localhost", days=-1)
    authority.sign("client", subject="with_certificate")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Way:
    """To a Postgres that takes nothing but TLS over TCP.

    The role `app` has a password; `with_certificate` needs the certificate of `client`.

    Attributes:
        admin: past it, on the Unix socket.
        front: its TLS end, where that is not the server's own.
    """

    port: int
    admin: str
    role: str = "app"
    front: "Front | None" = None

    def url(self, options: str, host: str = "localhost", role: str | None = None) -> str:
        who = role or f"{self.role}:{PASSWORD.replace('@', '%40')}"
        return f"postgresql://{who}@{host}:{self.port}/postgres?{options}"


@contextlib.contextmanager
def debian(version: int, certificates: Path) -> Iterator[Way]:
    """A Postgres of Debian's, with the certificate of `server`."""
    with postgres.debian(version) as server:
        folder, port = server.data, free_port()
        for name in ("server.crt", "server.key", "ca.crt"):
            shutil.copy2(certificates / name, folder / name)
            shutil.chown(folder / name, folder.owner(), folder.group())
        psql = [str(postgres.DEBIAN / str(version) / "bin" / "psql"), "-X", "-q", server.url]
        for sql in (
            "ALTER SYSTEM SET ssl_cert_file = 'server.crt'",
            "ALTER SYSTEM SET ssl_key_file = 'server.key'",
            "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'",
            "ALTER SYSTEM SET ssl = on",
            f"CREATE ROLE app SUPERUSER LOGIN PASSWORD '{PASSWORD}'",
            "CREATE ROLE with_certificate SUPERUSER LOGIN",
        ):
            subprocess.run([*psql, "-c", sql], check=True)
        (folder / "pg_hba.conf").write_text(
            "local all all trust\n"
            "hostssl all with_certificate all cert\n"
            "hostssl all all all scram-sha-256\n"
        )
        with _restarted(server, version, port) as admin:
            yield Way(port, admin)


def embedded(server: postgres.Server, front: "Front") -> Way:
    """The embedded Postgres, which is built without TLS, behind an end of it. It asks for the
    password itself."""
    hba = server.data / "pg_hba.conf"
    others = hba.read_text()
    if "local all app" not in others:
        hba.write_text(f"local all app scram-sha-256\n{others}")
        asyncio.run(
            _execute(
                server.url,
                f"CREATE ROLE app SUPERUSER LOGIN PASSWORD '{PASSWORD}'",
                "CREATE ROLE with_certificate SUPERUSER LOGIN",
                "SELECT pg_reload_conf()",
            )
        )
    return Way(front.port, server.url, front=front)


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for each in statements:
            await connection.execute(each)
    finally:
        await connection.close()


@contextlib.contextmanager
def _restarted(server: postgres.Server, version: int, port: int) -> Iterator[str]:
    """The server, listening on a port of 127.0.0.1 too."""
    sockets = parse_qs(urlsplit(server.url).query)["host"][0]
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={sockets}"
    control = [str(postgres.DEBIAN / str(version) / "bin" / "pg_ctl"), "-D", str(server.data), "-w"]
    subprocess.run(
        [*control, "-l", f"{sockets}/log", "-m", "fast", "-o", options, "restart"],
        check=True,
        user=server.data.owner(),
        cwd="/",
        stdout=subprocess.DEVNULL,
    )
    yield f"{server.url}&port={port}"


class Front:
    """A TLS end before a Postgres that has no TLS, in threads of its own. It asks
    `with_certificate` for their certificate, as `cert` in pg_hba.conf does.

    Attributes:
        port: of 127.0.0.1.
        encrypted: connections that were made.
        plain: those that were refused because they asked for no TLS.
    """

    _ASKS_FOR_TLS = struct.pack("!ii", 8, 80877103)
    _REFUSAL = b"SFATAL\0VFATAL\0C28000\0Mconnection requires a valid client certificate\0\0"

    def __init__(self, url: str, certificates: Path, name: str | None) -> None:
        """`name`: of its certificate; None: it offers no TLS."""
        query = parse_qs(urlsplit(url).query)
        self._up = f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"
        self._context: ssl.SSLContext | None = None
        if name is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            pair = (certificates / f"{name}.crt", certificates / f"{name}.key")
            self._context.load_cert_chain(*pair)
            self._context.load_verify_locations(certificates / "ca.crt")
            self._context.verify_mode = ssl.CERT_OPTIONAL
        self._threads: list[threading.Thread] = []
        self._ending = False
        self.port = 0
        self.encrypted = self.plain = 0

    @contextlib.contextmanager
    def serving(self) -> Iterator["Front"]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
            self._start(self._accept, listening)
            try:
                yield self
            finally:
                self._ending = True
                for thread in self._threads:
                    thread.join(10)

    def _start(self, act: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=act, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket) -> None:
        while not self._ending:
            if select.select([listening], [], [], 0.1)[0]:
                self._start(self._serve, listening.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(20)
            if client.recv(8) != self._ASKS_FOR_TLS:
                self.plain += 1
                return
            client.sendall(b"N" if self._context is None else b"S")
            if self._context is None:
                return
            with (
                self._context.wrap_socket(client, server_side=True) as inner,
                socket.socket(socket.AF_UNIX) as up,
            ):
                self.encrypted += 1
                begin = _first_message(inner)
                if b"\0user\0with_certificate\0" in begin and not _is_theirs(inner):
                    refusal = struct.pack("!ci", b"E", 4 + len(self._REFUSAL))
                    inner.sendall(refusal + self._REFUSAL)
                    return
                up.connect(self._up)
                up.sendall(begin)
                self._pass(inner, up)

    def _pass(self, client: ssl.SSLSocket, up: socket.socket) -> None:
        while not self._ending:
            ready = select.select([client, up], [], [], 0 if client.pending() else 0.1)[0]
            if client in ready or client.pending():
                if not (data := client.recv(1 << 16)):
                    return
                up.sendall(data)
            if up in ready:
                if not (data := up.recv(1 << 16)):
                    return
                client.sendall(data)


def _first_message(client: ssl.SSLSocket) -> bytes:
    """What a connection begins with: its length, and who connects."""
    found = client.recv(4)
    while len(found) < 4 or len(found) < struct.unpack("!i", found[:4])[0]:
        if not (more := client.recv(1 << 16)):
            raise ConnectionError("the client is gone")
        found += more
    return found


def _is_theirs(client: ssl.SSLSocket) -> bool:
    shown: Any = client.getpeercert() or {}
    return (("commonName", "with_certificate"),) in shown.get("subject", ())
