"""audb, audEERING's program that loads audformat databases from repositories."""

from pathlib import Path

from emodistill.corpora.readers.audformat import table_of
from emodistill.corpora.tables import Table, TableOptions, TableReader
from emodistill.errors import CorpusError, MissingExtraError


def read(source: Path, options: TableOptions) -> Table:
    """Load a database by its name from the repositories of audb's configuration, and read it.

    Raises `CorpusError` where audb cannot load it, and `MissingExtraError` without audb.
    """
    try:
        import audb
    except ImportError as error:
        raise MissingExtraError("audb", "audb", "a database of a repository") from error
    name = str(source)
    try:
        version = options.version or audb.latest_version(name)
        cache = None if options.cache is None else str(options.cache)
        # Ids are made of the paths, so these do not start at the cache.
        database = audb.load(name, version=version, full_path=False, cache_root=cache, verbose=False)
    except Exception as error:  # the errors of repositories have no common class
        text = " ".join(str(error).split()) or type(error).__name__
        repositories = ", ".join(str(item) for item in audb.config.REPOSITORIES) or "none"
        raise CorpusError(
            f"audb cannot load '{name}' {options.version or ''}: {text}; its repositories are {repositories}"
        ) from error
    return table_of(database, Path(database.root), options, [f"audb: {name} {version}"])


AUDB = TableReader("audb", read, ("root", "table", "version", "cache"))
