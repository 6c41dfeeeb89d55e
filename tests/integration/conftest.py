"""The flagship on a few thousand flights, run once; each test that changes something works on a copy."""

import os
import pwd
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
import sqlalchemy as sa
from people import PAGE, PEOPLE, Person, password
from projects import MLW, free_port, mlw

from mlworkbench.app.identity import set_password
from mlworkbench.core.settings import read_settings

SMALL = ("-p", "ingest.every=40")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    "A new project in which the flagship has run on each 40th flight. Not to be changed."
    folder = tmp_path_factory.mktemp("flights") / "project"
    assert mlw(folder.parent, "init", "project").returncode == 0
    done = mlw(folder, "run", "flights", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "first-run.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def flights(small_run, home) -> Path:
    "A copy of that project."
    return shutil.copytree(small_run, home, dirs_exist_ok=True)


PASSWORD = "planted-secret-93b1"


def _postgres(name: str) -> str | None:
    "Path of one of PostgreSQL's programs, which Debian keeps off the search path."
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture
def warehouse(postgresql) -> Iterator[str]:
    "Address, with a password, of an empty database in PostgreSQL."
    engine = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    name = f"test_{uuid.uuid4().hex[:8]}"
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield postgresql.removesuffix("postgres") + name
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    "Address, with a password, of a PostgreSQL server of our own."
    if not _postgres("initdb"):
        pytest.skip("no PostgreSQL on this machine; on Debian: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="mlw-pg-"))
    as_user = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        user = pwd.getpwnam("postgres" if any(u.pw_name == "postgres" for u in pwd.getpwall()) else "nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    data = folder / "data"
    options = ["--username=mlw", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8"]
    subprocess.run([_postgres("initdb"), "-D", data, *options], check=True, capture_output=True, **as_user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        _postgres("postgres"),
        "-D",
        data,
        "-p",
        str(port),
        "-c",
        "listen_addresses=127.0.0.1",
        "-k",
        folder,
    ]
    log = (folder / "log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log, **as_user)
    try:
        for _ in range(300):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"postgresql+psycopg://mlw:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    "Makes a folder on a file system of its own, which is soon full; sizes as `3m`."
    if sys.platform != "linux":
        pytest.skip("a small file system is made with Linux's tmpfs")
    place = tmp_path / "small"

    def make(size: str) -> Path:
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            place.rmdir()
            pytest.skip("no right to mount a small file system here")
        return place

    yield make
    if place.exists():
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def team(flights, start) -> Callable[..., dict[str, Person]]:
    "Starts `mlw up` for four people, each logged in, and one who is not."

    def begin(
        *more: str, tls: ssl.SSLContext | None = None, code: str = "trusted", **env: str
    ) -> dict[str, Person]:
        roles = "".join(f"{role} = {name}\n" for name, role in PEOPLE.items())
        with (flights / "settings.ini").open("a") as told:
            told.write(
                f"\n[roles]\n{roles}code = {code}\n\n[gateway]\nminutes = 0.15\n" + "\n".join(more) + "\n"
            )
        for name in PEOPLE:
            set_password(read_settings(flights), name, password(name))
        show = nbformat.v4.new_code_cell(
            "import os\nprint('TOKEN' + os.environ['MLW_TOKEN'] + 'END')", id="show"
        )
        about = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=[show], metadata=about), flights / PAGE)
        port, log = free_port(), flights / "up.log"
        server = start(MLW, "up", "--no-browser", "--port", str(port), cwd=flights, log=log, **env)
        nobody = Person(port, tls)
        for _ in range(300):
            try:
                if nobody.ask("GET", "/login")[0] == 200:
                    break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.2)
        people = {name: Person(port, tls) for name in PEOPLE}
        assert {name: person.log_in(name) for name, person in people.items()} == dict.fromkeys(PEOPLE, 302)
        return {**people, "nobody": Person(port, tls)}

    return begin
