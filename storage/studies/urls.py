"""Storage URLs: checked, made absolute, and shown without passwords. Opens no connection."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import ArgumentError

from kd.errors import StudyError
from storage.files.layout import whole_path

JOURNAL = "journal:"
FILES = (  # parameters of PostgreSQL's and MySQL's drivers whose values are paths
    *("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl"),
    *("read_default_file", "ssl_ca", "ssl_cert", "ssl_key", "ssl_capath"),
)
SECRET = "passw(?:or)?d"  # in the name of a URL's parameter
CREDENTIALS = re.compile(r"[^:/]*(?::[^@]*)?@")  # as SQLAlchemy parses them: user:password@


def check_url(url: str) -> None:
    """Raise StudyError, in one line without a password, for a URL that cannot store a study.

    Nothing is opened or created. SQLAlchemy's own messages may contain a part of the password.
    """
    if url.startswith(JOURNAL):
        needed = f"--storage {JOURNAL}FILE needs a file, as in {JOURNAL}studies.log"
        if "://" in url:  # Optuna supports journals in Redis too
            raise StudyError(f"{needed}, got {shown(url)!r}")
        if Path(url.removeprefix(JOURNAL)).is_dir():
            raise StudyError(f"{needed}, got the folder {url!r}")
        return
    try:
        parsed = parse_url(url)
    except ArgumentError:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL or journal:FILE, got {shown(url)!r}"
        ) from None
    except ValueError:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL, got {shown(url)!r}, which is ambiguous; "
            "percent-encode user and password: @ as %40, / as %2F, : as %3A, ? as %3F, & as %26"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        _check_sqlite(url, parsed)


def _check_sqlite(url: str, parsed: URL) -> None:
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise StudyError(
            f"--storage supports only Python's own driver for SQLite, got {shown(url)!r}; use the "
            "form sqlite:///studies.db"
        )
    name = (parsed.database or "").removeprefix("file:")
    place = parsed.query.get("mode"), parsed.query.get("vfs")
    if name in ("", ":memory:") or "memory" in place or "memdb" in place:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL of a database on disk, got {shown(url)!r}, which "
            "is in memory; use a file: sqlite:///studies.db"
        )
    file = storage_file(url)
    if file and file.is_dir():
        raise StudyError(
            f"the storage must be a file, got the folder {url}; use a file in it: studies.db"
        )


def parse_url(url: str) -> URL:
    """Return a parsed URL. Raises ArgumentError if invalid, ValueError for an unescaped password.

    For SQLAlchemy a password ends at the first @, and a parameter at the first &: the rest would be
    parsed as host, database or another parameter, and be printed.
    """
    parsed = make_url(url)
    _, _, rest = url.partition("://")
    credentials = CREDENTIALS.match(rest)
    behind = rest[credentials.end() :] if credentials else rest
    if parsed.get_backend_name() != "sqlite" and "@" in behind:
        raise ValueError
    _, _, query = behind.partition("?")
    if re.search(SECRET, query, re.IGNORECASE) and not all("=" in p for p in query.split("&")):
        raise ValueError
    return parsed


def storage_file(url: str) -> Path | None:
    """Return the file of a SQLite or journal storage; None for a server."""
    if url.startswith(JOURNAL):
        return Path(url.removeprefix(JOURNAL)).absolute()
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    if parsed.database.startswith("file:") and parsed.query.get("uri"):  # SQLite's own URI
        return Path(unquote(urlsplit(parsed.database).path)).absolute()
    return Path(parsed.database).absolute()


def whole_url(url: str) -> str:
    """Return a storage URL with absolute paths of its file, or of files that its driver reads.

    An in-memory database and an invalid URL are returned unchanged, and so is `~` in a server's
    URL, which may be the home folder of another user.
    """
    if url.startswith(JOURNAL) and url != JOURNAL and "://" not in url:
        return f"{JOURNAL}{whole_path(url.removeprefix(JOURNAL))}"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url
    if parsed.get_backend_name() == "sqlite":
        whole = parsed.set(database=_whole_database(parsed))
    else:
        files = {name: _whole_file(name, value) for name, value in parsed.query.items()}
        whole = parsed.set(query=files)
    return url if whole == parsed else whole.render_as_string(hide_password=False)


def _whole_database(url: URL) -> str | None:
    """Return SQLite's database, which may be `file:PATH` with ?uri=true, with an absolute path."""
    database = url.database or ""
    prefix = "file:" if database.startswith("file:") and "uri" in url.query else ""
    path = database.removeprefix(prefix)
    in_memory = path in ("", ":memory:") or (prefix and url.query.get("mode") == "memory")
    return url.database if in_memory else f"{prefix}{whole_path(path)}"


def _whole_file(name: str, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return the value of a URL's parameter, as an absolute path if it is a file."""
    relative = name in FILES and isinstance(value, str) and value[:1] not in ("", "/", "~")
    return str(whole_path(str(value))) if relative and value != "system" else value


def without_password(url: str) -> str:
    """Return the URL as a study records it: without password, in one spelling per server."""
    try:
        parsed = parse_url(url)
    except (ArgumentError, ValueError):
        return shown(url)
    query = {
        name: value
        for name, value in parsed.query.items()
        if not re.search(SECRET, name, re.IGNORECASE)
    }
    kept = URL.create(
        parsed.drivername,
        username=parsed.username or None,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query=query,
    )
    unchanged = storage_file(url) is not None and kept == parsed
    return url if unchanged else kept.render_as_string(hide_password=False)


def masked(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without the passwords of URLs."""
    return [_masked(last, word) for last, word in zip(["", *words], words, strict=False)]


def _masked(last: str, word: str) -> str:
    flag = match[0] if (match := re.match(r"--[\w-]+=", word)) else ""
    is_url = "://" in word or "--storage" in (last, flag.removesuffix("="))
    return flag + without_password(word.removeprefix(flag)) if is_url else word


def shown(url: str) -> str:
    """Return the URL without its password; only its beginning where it cannot be parsed."""
    if url.startswith(JOURNAL):
        beginning, apart, _ = url.partition("://")
        return f"{beginning}{apart}***" if apart else url
    try:
        parsed = parse_url(url)
        plain = parsed.render_as_string(hide_password=True) if parsed.password else url
    except (ArgumentError, ValueError):
        beginning, colon, rest = url.partition(":")
        return f"{beginning}:{'//' * rest.startswith('//')}***" if colon else url
    return re.sub(rf"({SECRET}=).*", r"\1***", plain, flags=re.IGNORECASE | re.DOTALL)
