"""audb: a database is published into a local repository, and prepared from there."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import audb
import numpy as np
import pytest
import soundfile

from emodistill.corpora import TABLE_READERS, Corpus, TableOptions, Utterance, read_own_table
from emodistill.corpora.writers import write_corpus
from emodistill.errors import CorpusError

CONFIG = """\
cache_root: {cache}
shared_cache_root: {cache}
repositories:
  - name: local
    backend: file-system
    host: {host}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Publish two versions of a database, and return a configuration that names the repository."""
    utterances = []
    for number, emotion in enumerate(("angry", "sad", "happy")):
        path = tmp_path / "given" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.full(8000, 0.1), 8000)
        utterances.append(
            Utterance(
                f"u{number}", f"s{number}", emotion, path, gender="female", language="de", corpus="mine"
            )
        )
    host = tmp_path / "host"
    (host / "local").mkdir(parents=True)
    repository = audb.Repository("local", str(host), "file-system")
    monkeypatch.setattr(audb.config, "REPOSITORIES", [repository])
    for version, count in (("1.0.0", 2), ("1.1.0", 3)):
        write_corpus(Corpus("mine", tuple(utterances[:count])), "audformat", tmp_path / version)
        audb.publish(str(tmp_path / version), version, repository, previous_version=None, verbose=False)
    file = tmp_path / ".config" / "audb.yaml"
    file.parent.mkdir()
    file.write_text(CONFIG.format(cache=tmp_path / "cache", host=host))
    return file


def test_a_published_database_is_prepared(config: Path, tmp_path: Path) -> None:
    cache = tmp_path / "own cache"
    for version, emotions in ((None, ["angry", "sad", "happy"]), ("1.0.0", ["angry", "sad"])):
        options = TableOptions(version=version, cache=cache)
        table = TABLE_READERS["audb"].read(Path("mine"), options)
        assert table.notes[0] == f"audb: mine {version or '1.1.0'}"
        assert [row["path"] for _, row in table.rows] == [f"audio/{n}.wav" for n in range(len(emotions))]
        corpus = read_own_table(table, {}, {}, None, None, print)
        assert [item.emotion for item in corpus] == emotions
        assert [item.speaker for item in corpus] == [f"s{number}" for number in range(len(emotions))]
        assert {(item.gender, item.language, item.corpus) for item in corpus} == {("female", "de", "mine")}
        for item in corpus:
            assert item.path is not None
            assert item.path.is_relative_to(cache)
            assert soundfile.info(item.path).frames == 8000


def test_what_cannot_be_loaded_is_an_error(config: Path, tmp_path: Path) -> None:
    read = TABLE_READERS["audb"].read
    with pytest.raises(CorpusError, match=r"audb cannot load 'other'.*its repositories are .*local"):
        read(Path("other"), TableOptions(cache=tmp_path))
    with pytest.raises(CorpusError, match=r"audb cannot load 'mine' 9\.0\.0"):
        read(Path("mine"), TableOptions(version="9.0.0", cache=tmp_path))


def test_the_command_line_prepares_a_database(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "u.csv"
    command = ["corpus", "prepare", "audb", "mine", "--version", "1.0.0", "-o", str(out)]
    environment = os.environ | {"HOME": str(config.parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "emodistill", *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["emotion"], row["speaker"], row["duration_s"]) for row in rows] == [
        ("angry", "s0", "1.0"),
        ("sad", "s1", "1.0"),
    ]
