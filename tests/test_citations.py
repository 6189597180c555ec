"""BibTeX: every corpus and backbone has its publication, and a run names all that it was made with."""

import re
from dataclasses import replace
from pathlib import Path

import factories as make
import pytest
from factories_runs import invented_corpus, invented_run

from emodistill.citations import METHOD, SOFTWARE, Citation, bibliography
from emodistill.corpora import READERS
from emodistill.errors import ModelError
from emodistill.features.llds import CITATIONS as FEATURES
from emodistill.models.backbones import CITATIONS as BACKBONES
from emodistill.models.backbones import FAMILIES
from emodistill.models.linguistic import ENCODER_CITATIONS
from emodistill.report.bibliography import references

KNOWN = {
    **{f"corpus {name}": reader.citation for name, reader in READERS.items()},
    **{f"backbone {name}": citation for name, citation in BACKBONES.items()},
    **{f"encoder {name}": citation for name, citation in ENCODER_CITATIONS.items()},
    **{f"features {item.key}": item for item in FEATURES},
    "method": METHOD,
    "software": SOFTWARE,
}


def entries(bibtex: str) -> dict[str, dict[str, str]]:
    """The entries of BibTeX by key: their fields, and `kind`. Fails where braces do not match."""
    assert bibtex.count("{") == bibtex.count("}")
    found = {}
    for kind, key, body in re.findall(r"^@(\w+)\{([^,\s]+),\n(.*?)^\}$", bibtex, re.DOTALL | re.MULTILINE):
        lines = body.splitlines()
        fields = dict(re.fullmatch(r"  (\w+) *= \{(.*)\},", line).groups() for line in lines)  # type: ignore[union-attr]
        assert len(fields) == len(lines), "no field stands twice"
        assert key not in found
        found[key] = {"kind": kind, **fields}
    assert len(found) == bibtex.count("\n@") + bibtex.startswith("@")
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_each_has_a_publication_or_says_that_there_is_none(name: str) -> None:
    citation = KNOWN[name]
    if isinstance(citation, str):
        assert citation.startswith("no publication: ")
        return
    ((key, fields),) = entries(citation.bibtex()).items()
    assert re.fullmatch(r"[a-z]+\d{4}[a-z0-9]+|emodistill", key)
    assert {"author", "title", "year"} <= fields.keys()
    assert {"article": "journal", "inproceedings": "booktitle", "misc": "title"}[fields["kind"]] in fields
    for author in fields["author"].split(" and "):
        assert re.fullmatch(r"[^,]+, [^,]+|\{.*\}|others", author), author
    assert 1970 < int(fields["year"]) < 2100
    assert re.fullmatch(r"10\.\d{4,}/\S+", fields.get("doi", "10.1234/x")), "a DOI without its address"
    assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "2309.04849"))
    assert re.fullmatch(r"\d+--\d+|e\d+", fields.get("pages", "1--2"))
    assert citation.text().startswith(fields["author"].split(",")[0].strip("{}"))
    assert not set("{}") & set(citation.text())


def test_every_family_declares_a_publication_for_each_of_its_model_types() -> None:
    for family in FAMILIES:
        assert set(family.citations) == set(family.model_types)


def test_a_publication_stands_once_and_two_may_not_share_a_key() -> None:
    assert bibliography([METHOD, SOFTWARE, METHOD]) == [METHOD, SOFTWARE]
    known = [citation for citation in KNOWN.values() if isinstance(citation, Citation)]
    assert bibliography(known)
    with pytest.raises(ValueError, match=f"two publications have the key '{METHOD.key}'"):
        bibliography([METHOD, replace(METHOD, year=1999)])


def test_a_run_cites_its_corpus_its_backbone_its_encoder_and_its_features(tmp_path: Path) -> None:
    run = invented_run(tmp_path / "run", student={"backbone": "facebook/hubert-base-ls960"})
    found = entries(references([str(run)]).bibtex())
    assert {
        "shome2024emodistill", "emodistill", "livingstone2018ravdess", "hsu2021hubert", "devlin2019bert",
        "eyben2010opensmile", "eyben2016gemaps", "paszke2019pytorch", "falcon2019lightning",
        "wolf2020transformers",
    } == found.keys()  # fmt: skip
    assert "weights 'facebook/hubert-base-ls960'" in references([str(run)]).bibtex()
    started = invented_run(tmp_path / "started", student={"backbone": "x/hubert-y", "init": "bundled"})
    text = references([str(started)]).bibtex()
    assert "'bundled'" in text
    assert "x/hubert-y" not in text, "the student has the backbone of the model that it starts from"
    plain = invented_run(tmp_path / "plain", teachers={})
    keys = entries(references([str(plain)]).bibtex()).keys()
    assert not keys & {"devlin2019bert", "eyben2010opensmile"}, "no teacher, so nothing of a teacher"
    both = references([str(run), str(plain)]).bibtex()
    assert entries(both).keys() == found.keys() | keys


def test_what_has_no_known_publication_is_a_comment(tmp_path: Path) -> None:
    corpus = invented_corpus()
    own = replace(corpus, utterances=tuple(replace(item, corpus="my-calls") for item in corpus))
    run = invented_run(
        tmp_path / "run",
        corpus=own,
        student={"backbone": "somebody/odd"},
        linguistic={"encoder": "x/albert-base"},
    )
    text = references([str(run)]).bibtex()
    assert "% corpus 'my-calls': no publication is known here, so look at its page." in text
    assert "% backbone 'somebody/odd': no publication" in text
    assert "% text encoder 'x/albert-base': no publication" in text
    assert entries(text)


def test_a_trained_model_tells_its_type_whatever_its_name(run: Path) -> None:
    found = references([str(run)])
    assert {"liu2022convnext", "devlin2019bert"} <= entries(found.bibtex()).keys()


def test_an_ablation_and_a_model_have_publications_too(tmp_path: Path, bundled: object) -> None:
    for cell in ("full", "plain"):
        for seed in (0, 1):
            invented_run(tmp_path / "cells" / cell / f"seed-{seed}", seed=seed)
    (tmp_path / "cells" / "unfinished" / "seed-0").mkdir(parents=True)
    assert "livingstone2018ravdess" in entries(references([str(tmp_path)]).bibtex())
    keys = entries(references(["bundled"]).bibtex()).keys()
    assert {"cao2014cremad", "christop2024nemo", "radford2023whisper"} <= keys
    with pytest.raises(ModelError, match="no run folder"):
        references([str(tmp_path / "gone")])


def test_the_command_writes_a_file_or_standard_output(emodistill: make.CommandLine, tmp_path: Path) -> None:
    result = emodistill("cite", "bundled")
    assert result.code == 0
    assert entries(result.out) == entries(references(["bundled"]).bibtex())
    result = emodistill("cite", "bundled", "-o", str(tmp_path / "references.bib"))
    assert result.out == ""
    assert f"{len(references(['bundled']).citations)} publications" in result.err
    assert entries((tmp_path / "references.bib").read_text(encoding="utf-8"))
    assert entries(emodistill("cite").out).keys() == {METHOD.key, SOFTWARE.key}
