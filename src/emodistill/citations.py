"""Publications as BibTeX, and those of the method and the software. What people add declares its own."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

from emodistill.version import __version__

_NOT_FIELDS = ("key", "kind")


@dataclass(frozen=True)
class Citation:
    """A publication. The fields are those of BibTeX; None is left out.

    Only facts that were checked belong here. Without a page or a DOI, leave the field out.
    """

    key: str  # such as livingstone2018ravdess
    kind: Literal["article", "inproceedings", "misc"]
    author: str  # "Family, Given and Family, Given"; "others" as the last one stands for more
    title: str  # braces around letters that keep their case: {RAVDESS}
    year: int
    journal: str | None = None
    booktitle: str | None = None
    publisher: str | None = None
    volume: str | None = None
    number: str | None = None
    pages: str | None = None
    doi: str | None = None
    eprint: str | None = None  # the number of a preprint on arXiv
    url: str | None = None
    note: str | None = None

    def bibtex(self) -> str:
        """The entry as BibTeX. A preprint has the fields that arXiv recommends."""
        entries = {
            field.name: str(getattr(self, field.name))
            for field in fields(self)
            if field.name not in _NOT_FIELDS and getattr(self, field.name) is not None
        }
        if self.eprint is not None:
            entries["archiveprefix"] = "arXiv"
        width = max(map(len, entries))
        lines = [f"  {name:<{width}} = {{{value}}}," for name, value in entries.items()]
        return "\n".join([f"@{self.kind}{{{self.key},", *lines, "}"])

    def text(self) -> str:
        """The publication in one line: authors, year, title, where it appeared, address."""
        families = [name.split(",")[0].strip("{}") for name in self.author.split(" and ")]
        if len(families) > 3 or families[-1] == "others":
            families = [f"{families[0]} et al."]
        authors = " & ".join([", ".join(families[:-1]), families[-1]] if len(families) > 1 else families)
        where = self.journal or self.booktitle
        volume = f" {self.volume}" if self.volume and self.journal else ""
        number = f"({self.number})" if self.number and volume else ""
        parts = [f"{authors} ({self.year})", self.title, f"{where}{volume}{number}" if where else None]
        text = ", ".join(part for part in [*parts, self.address] if part)
        return text.replace("{", "").replace("}", "").replace("--", "–")

    @property
    def address(self) -> str | None:
        """Where the publication can be found."""
        if self.doi is not None:
            return f"https://doi.org/{self.doi}"
        return f"https://arxiv.org/abs/{self.eprint}" if self.eprint is not None else self.url


def bibliography(citations: Iterable[Citation]) -> list[Citation]:
    """The publications, each once, in the order of their first use.

    Raises `ValueError` for two different publications with one key.
    """
    by_key: dict[str, Citation] = {}
    for citation in citations:
        if by_key.setdefault(citation.key, citation) != citation:
            raise ValueError(f"two publications have the key '{citation.key}'")
    return list(by_key.values())


METHOD = Citation(
    "shome2024emodistill", "inproceedings",
    author="Shome, Debaditya and Etemad, Ali",
    title="Speech Emotion Recognition with Distilled Prosodic and Linguistic Affect Representations",
    year=2024,
    booktitle="IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)",
    eprint="2309.04849",
)  # fmt: skip

SOFTWARE = Citation(
    "emodistill", "misc",
    author="{The EmoDistill authors}",
    title="{EmoDistill}: Speech Emotion Recognition from the Waveform Alone, Distilled from Prosodic and "
    "Linguistic Teachers",
    year=2026,
    note=f"Version {__version__}",
)  # fmt: skip

PYTORCH = Citation(
    "paszke2019pytorch", "inproceedings",
    author="Paszke, Adam and Gross, Sam and Massa, Francisco and Lerer, Adam and Bradbury, James and others",
    title="{PyTorch}: An Imperative Style, High-Performance Deep Learning Library",
    year=2019,
    booktitle="Advances in Neural Information Processing Systems",
    volume="32",
    eprint="1912.01703",
)  # fmt: skip

LIGHTNING = Citation(
    "falcon2019lightning", "misc",
    author="Falcon, William and {The PyTorch Lightning team}",
    title="{PyTorch Lightning}",
    year=2019,
    doi="10.5281/zenodo.3828935",
)  # fmt: skip

TRANSFORMERS = Citation(
    "wolf2020transformers", "inproceedings",
    author="Wolf, Thomas and Debut, Lysandre and Sanh, Victor and Chaumond, Julien and Delangue, Clement and "
    "others",
    title="Transformers: State-of-the-Art Natural Language Processing",
    year=2020,
    booktitle="Conference on Empirical Methods in Natural Language Processing: System Demonstrations",
    pages="38--45",
    doi="10.18653/v1/2020.emnlp-demos.6",
)  # fmt: skip

LORA = Citation(
    "hu2022lora", "inproceedings",
    author="Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and "
    "Wang, Shean and Wang, Lu and Chen, Weizhu",
    title="{LoRA}: Low-Rank Adaptation of Large Language Models",
    year=2022, booktitle="International Conference on Learning Representations (ICLR)", eprint="2106.09685",
)  # fmt: skip
