"""Write the pages of the site that come from the package: verbs, JSON, recipes.

`site_hooks.py` calls these functions while MkDocs builds the site. They import no torch.
"""

import ast
import importlib
import inspect
import io
import json
import re
import subprocess
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Literal

from pydantic import BaseModel

from emodistill.config.recipe import Recipe

CLI = "emodistill.cli"

# --- JSON ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of JSON object that the package writes."""

    of: str  # module:class, whose fields it has
    without: tuple[str, ...] = ()  # fields of the class that JSON does not have
    optional: tuple[str, ...] = ()  # fields that are left out where they have no value
    meanings: str | None = None  # module:class, whose comments describe fields that this class does not


PREDICTION_OPTIONAL = (
    "teachers", "voice_utterances", "surety", "dimensions", "dimensions_from", "channel", "id", "start_s",
    "end_s", "speaker",
)  # fmt: skip
SEGMENT_OPTIONAL = (
    "speaker", "voice_utterances", "surety", "dimensions", "dimensions_from", "channel", "text",
)  # fmt: skip
_INFERENCE, _SERVING, _EVALUATION = (f"emodistill.{name}" for name in ("inference", "serving", "evaluation"))

# The anchor of the section in docs/reference/json.md -> its object.
KINDS: Mapping[str, Kind] = {
    "prediction": Kind(
        f"{_INFERENCE}.prediction:Prediction", without=("mixed_channels",), optional=PREDICTION_OPTIONAL
    ),
    "timeline": Kind(
        f"{_INFERENCE}.timelines:Timeline", without=("trace", "mixed_channels"), optional=("speakers",)
    ),
    "segment": Kind(f"{_INFERENCE}.segmentation:Segment", optional=SEGMENT_OPTIONAL),
    "update": Kind(
        f"{_INFERENCE}.segmentation:WindowUpdate",
        optional=("voice_utterances", "dimensions", "dimensions_from", "emotion"),
    ),
    "speech-started": Kind(f"{_INFERENCE}.streaming:SpeechStarted"),
    "speech-ended": Kind(f"{_INFERENCE}.streaming:SpeechEnded"),
    "voice": Kind(f"{_SERVING}.schemas:VoiceContent", meanings=f"{_INFERENCE}.voices:Voice"),
    "enrolled-voice": Kind(f"{_SERVING}.schemas:EnrolledVoice"),
    "models": Kind(f"{_SERVING}.schemas:Models"),
    "model": Kind(f"{_SERVING}.schemas:ModelInfo", meanings=f"{_INFERENCE}.model_card:Card"),
    "job": Kind(f"{_SERVING}.schemas:JobStatus", optional=("progress", "result", "problem")),
    "health": Kind(f"{_SERVING}.schemas:Health"),
    "problem": Kind(f"{_SERVING}.problems:Problem", optional=("instance", "errors")),
    "field-problem": Kind(f"{_SERVING}.problems:FieldProblem"),
    "stream-start": Kind(f"{_SERVING}.schemas:StreamStart"),
    "card": Kind(f"{_INFERENCE}.model_card:Card"),
    "coverage-point": Kind(f"{_INFERENCE}.model_card:CoveragePoint"),
    "accuracy-point": Kind(f"{_INFERENCE}.model_card:AccuracyPoint"),
    "data-source": Kind(f"{_INFERENCE}.model_card:DataSource"),
    "external-weights": Kind(f"{_INFERENCE}.model_card:ExternalWeights"),
    "run-scores": Kind(f"{_EVALUATION}.scores:RunScores"),
    "model-scores": Kind(f"{_EVALUATION}.scores:ModelScores"),
    "estimate": Kind(f"{_EVALUATION}.bootstrap:Estimate"),
    "group": Kind(f"{_EVALUATION}.scores:Group"),
    "calibration": Kind(f"{_EVALUATION}.scores:Calibration"),
    "reliability-bin": Kind(f"{_EVALUATION}.calibration:ReliabilityBin"),
    "agreement": Kind(f"{_EVALUATION}.scores:Agreement"),
    "listener-scores": Kind(f"{_EVALUATION}.scores:ListenerScores"),
    "known-score": Kind(f"{_EVALUATION}.known_scores:KnownScore"),
    "run-dimensions": Kind(f"{_EVALUATION}.dimension_scores:RunDimensions"),
    "model-dimensions": Kind(f"{_EVALUATION}.dimension_scores:ModelDimensions"),
    "dimension-group": Kind(f"{_EVALUATION}.dimension_scores:DimensionGroup"),
    "dimension-score": Kind(f"{_EVALUATION}.dimension_scores:DimensionScore"),
    "vote-scores": Kind(f"{_EVALUATION}.vote_scores:VoteScores"),
    "model-votes": Kind(f"{_EVALUATION}.vote_scores:ModelVotes"),
    "vote-bin": Kind(f"{_EVALUATION}.vote_scores:VoteBin"),
    "half-scores": Kind(f"{_EVALUATION}.vote_scores:HalfScores"),
    "run-cost": Kind(f"{_EVALUATION}.cost:RunCost"),
    "model-cost": Kind(f"{_EVALUATION}.cost:ModelCost"),
    "training-cost": Kind(f"{_EVALUATION}.cost:TrainingCost"),
}

SHARE = "0 to 1"
SUFFIXES = {"_s": "s", "_hz": "Hz", "_db": "dB"}
UNITS = {
    "rate": "Hz", "summary": "s", "speakers": "s", "smooth": "s", "min_duration": "s", "hop": "s",
    "window": "s", "confidence": SHARE, "min_confidence": SHARE, "probabilities": SHARE, "teachers": SHARE,
    "dimensions": SHARE, "coverage": SHARE, "accuracy": SHARE, "progress": SHARE, "channel": "from 0",
    "utterances": "count", "voice_utterances": "count", "count": "count",
}  # fmt: skip

# Meanings of fields whose comment or description in the code is missing, or does not stand alone.
_EMOTION = "the most probable emotion, or null without an answer"
MEANINGS: Mapping[str, Mapping[str, str]] = {
    "prediction": {"emotion": _EMOTION, "abstained": "whether the recogniser gave no answer, see `reason`"},
    "timeline": {
        "duration_s": "the length of the recording; null: it could not be read",
        "segments": "in order of time",
        "reason": "why there is no segment",
        "error": "why the recording could not be read",
    },
    "segment": {
        "start_s": "where the segment begins in the recording",
        "end_s": "where it ends",
        "emotion": _EMOTION,
        "probabilities": "by emotion, with the sum 1; empty if none were computed",
        "voice_utterances": "of the voice that the segment was compared with; absent: no voice",
    },
    "update": {
        "start_s": "where the window begins in the audio",
        "end_s": "where the window ends",
        "probabilities": "by emotion, with the sum 1",
    },
    "speech-started": {"time_s": "where the speech starts in the audio"},
    "speech-ended": {"time_s": "where the speech ended in the audio"},
    "voice": {"format": "1", "sha256": "of the other fields; an edited voice is refused"},
    "enrolled-voice": {
        "voice": "the voice, which the server does not keep",
        "warnings": "files that were left out, and too little speech",
    },
    "models": {
        "version": "of the package",
        "models": "the default model first",
        "limits": "the limits of this server by name; null: no limit",
    },
    "model": {
        "name": "what a request sends as `model`",
        "num_parameters": "of the student",
        "languages": "that it learned from, as ISO 639-1",
        "licence": "of the weights",
        "intended_use": "what the model is for",
        "limits": "what the model was not tested on",
        "card": "the whole [card](#card)",
    },
    "job": {"state": "what the job does now"},
    "health": {"status": "`/healthz` answers `ok`, `/readyz` answers `ready`"},
    "problem": {
        "type": "the kind of problem, as `urn:emodistill:KIND`; about:blank: see the status",
        "title": "the name of the status",
        "status": "of HTTP",
        "detail": "what is wrong with this request, and what to do",
    },
    "field-problem": {"field": "of the request", "message": "what was expected"},
    "stream-start": {
        "encoding": "of the audio; pcm16 and float32 are little-endian, with interleaved channels",
        "channels": "of the audio, from 1 to 8",
        "model": "its name; null: the default model of the server",
        "emotions": "the emotions that may be answered; null: all",
        "min_confidence": "below it a segment has no emotion; a number, or text such as `dev:0.8`",
        "adapt": "`running`: each window is compared with the speech before it",
        "smooth": "how strongly changes of emotion are smoothed",
        "min_duration": "the least speech of an emotion, if there is another one",
        "hop": "from one window to the next",
        "window": "the length of a window",
    },
    "card": {
        "format": "1",
        "name": "of the model",
        "sample_rate_hz": "16000: the recogniser converts all audio to it",
        "backbone": "of the student",
        "num_parameters": "of the student",
        "corpus": "that the student learned from",
        "data": "all corpora of training and test",
        "fold": "whose model it is",
        "versions": "of the packages that exported it",
        "licence": "of the weights",
        "limits": "what the model was not tested on",
        "intended_use": "what the model is for",
        "accuracy_voice": "the table `accuracy` for answers with a known voice",
    },
    "data-source": {"name": "of the corpus", "licence": "of the corpus"},
    "run-scores": {
        "name": "of the run",
        "emotions": "the classes, in the order of the confusion matrix",
        "agreement": "of the student with each teacher",
        "notes": "which scores are missing, and why",
    },
    "model-scores": {
        "scores": "by `ua`, `wa`, `macro_f1`, `weighted_f1`",
        "folds": "by the same keys: `mean`, `sd`",
        "model": "its title",
        "num_utterances": "of test",
        "num_speakers": "of test",
    },
    "estimate": {
        "value": "the score",
        "low": "the lower end of its 95 % interval; null: too few speakers",
        "high": "the upper end",
    },
    "group": {
        "scores": "by `ua`, `wa`, `macro_f1`, `weighted_f1`",
        "name": "of the group",
        "num_utterances": "of the group",
        "num_speakers": "of the group",
    },
    "calibration": {
        "reliability": "accuracy by confidence",
        "risk_coverage": "the curve as pairs of coverage and risk",
    },
    "reliability-bin": {
        "confidence": "the mean confidence of some utterances",
        "accuracy": "the share of these utterances that are correct",
        "low": "the lower end of the 95 % interval of the accuracy; null: too few speakers",
        "high": "the upper end",
        "count": "how many utterances they are",
    },
    "agreement": {
        "teacher": "its name",
        "num_utterances": "that both have predictions for",
        "student_ua": "UA of the student on them",
        "teacher_ua": "UA of the teacher on them",
        "agree": "both give the same emotion",
        "both_right": "both give the label",
        "only_student_right": "the student alone gives the label",
        "only_teacher_right": "the teacher alone gives the label",
        "neither_right": "none of them gives the label",
    },
    "listener-scores": {
        "num_utterances": "of test that have votes",
        "one_listener": "UA and WA of one vote against the label",
        "one_against_others": "UA of one vote against the most frequent other vote; null: no second vote",
    },
    "known-score": {
        "group": "a corpus, all of them pooled, or a mean over corpora or folds",
        "variant": "which utterances are known",
        "known": "how many are known, or `all`",
        "num_utterances": "of the group",
        "num_speakers": "of the group",
        "ua": "UA of the group",
        "wa": "WA of the group",
        "wa_sd": "over folds",
    },
    "run-dimensions": {"names": "of the dimensions"},
    "model-dimensions": {"model": "its title", "dimensions": "by name"},
    "dimension-group": {
        "name": "of the group",
        "num_utterances": "of the group",
        "num_speakers": "of the group",
        "dimensions": "by name",
    },
    "dimension-score": {
        "num_utterances": "that have the label",
        "num_speakers": "of these utterances",
        "scores": "by `ccc`, `pearson`, `rmse`; null: not defined",
        "undefined": "by the same keys: why a score is not defined",
        "folds": "by the same keys: mean, sd, and number of the folds in which the score is defined",
    },
    "vote-scores": {"num_utterances": "of test that have votes"},
    "model-votes": {"model": "its title", "figures": "by score", "bins": "those that are not empty"},
    "vote-bin": {
        "low": "the lowest probability of the bin",
        "high": "its highest probability",
        "num_pairs": "of an utterance and an emotion",
        "probability": "the mean of the bin",
        "share": "the mean share of the votes",
    },
    "half-scores": {
        "model": "JS distance of the model",
        "listeners_cross_entropy": "of the other half, in nats",
        "model_cross_entropy": "of the model, in nats",
    },
    "run-cost": {
        "models": "by name, the main model first",
        "machine": "what was measured on",
        "audio_s": "of the measured utterance",
    },
    "model-cost": {
        "parameters": "of the network",
        "repetitions": "of the measurement",
    },
    "training-cost": {
        "epochs": "that were trained",
        "cpu": "its name",
        "threads": "of torch",
        "torch": "its version",
    },
}


@dataclass(frozen=True)
class JsonField:
    """A row of a table of the page."""

    name: str
    hint: Any
    meaning: str
    optional: bool

    @property
    def unit(self) -> str:
        """Return the unit that the name states, or "" for text, truth values and objects."""
        if not _holds_numbers(self.hint):
            return ""
        suffixes = (unit for end, unit in SUFFIXES.items() if self.name.endswith(end))
        counted = "count" if self.name.startswith("num_") else ""
        return UNITS.get(self.name) or counted or next(suffixes, "")


def fields(name: str) -> list[JsonField]:
    """Return the fields of a kind of JSON, in their order.

    Raises `ValueError` where a field has neither a comment nor a description.
    """
    kind = KINDS[name]
    cls = _load(kind.of)
    hints = typing.get_type_hints(cls)
    meanings = {**(_meanings(_load(kind.meanings)) if kind.meanings else {}), **_meanings(cls)}
    meanings |= MEANINGS.get(name, {})
    found = []
    for field in _field_names(cls):
        if field in kind.without:
            continue
        if not meanings.get(field):
            raise ValueError(
                f"{kind.of}.{field} has no meaning: write a comment beside it, a description, or "
                "an entry in MEANINGS"
            )
        found.append(JsonField(field, hints[field], meanings[field], field in kind.optional))
    return found


def fields_table(name: str) -> str:
    """Return the fields of a kind of JSON as a Markdown table, below the kind's docstring."""
    lines = ["| field | type | unit | meaning |", "| --- | --- | --- | --- |"]
    for field in fields(name):
        optional = "*optional*; " if field.optional else ""
        meaning = re.sub(r"\bNone\b", "absent" if field.optional else "null", field.meaning)
        hint = json_type(field.hint)
        cells = (
            f"`{field.name}`",
            hint.removesuffix(" or null") if field.optional else hint,
            field.unit,
            optional + (meaning if field.optional else _capital(meaning)).replace("|", "\\|"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def json_type(hint: Any) -> str:
    """Return the JSON type of a Python type in words, with links to the sections of other objects."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return json_type(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value!r}`".replace("'", '"') for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(json_type(part) for part in arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"array [{', '.join(json_type(part) for part in arguments)}]"
    if origin in (tuple, list):
        return f"array of {_plural(arguments[0])}"
    if origin in (dict, Mapping):
        return f"object of {_plural(arguments[1])}"
    words = {str: "text", float: "number", int: "integer", bool: "true or false", type(None): "null"}
    if hint in words:
        return words[hint]
    for anchor, kind in KINDS.items():
        if inspect.isclass(hint) and kind.of == f"{hint.__module__}:{hint.__qualname__}":
            return f"[{anchor.replace('-', ' ')}](#{anchor})"
    return {"SecretStr": "text", "Any": "any value"}.get(getattr(hint, "__name__", ""), "object")


def _plural(hint: Any) -> str:
    words = json_type(hint)
    first, *rest = words.split(" ")
    return (
        " ".join([f"{first}s", *rest]) if first in ("number", "integer", "object", "array", "text") else words
    )


def _holds_numbers(hint: Any) -> bool:
    arguments = typing.get_args(hint)
    return hint in (int, float) or any(_holds_numbers(part) for part in arguments)


def _capital(text: str) -> str:
    return text if text.startswith(("`", "ece", "ua", "pcm16")) else text[:1].upper() + text[1:]


def _load(path: str) -> type:
    module, name = path.split(":")
    cls: type = getattr(importlib.import_module(module), name)
    return cls


def _field_names(cls: type) -> list[str]:
    if is_dataclass(cls):
        return [field.name for field in dataclass_fields(cls)]
    assert issubclass(cls, BaseModel)
    return list(cls.model_fields)


def _meanings(cls: type) -> dict[str, str]:
    """Return what the source states of each field: pydantic's description, or else the comment."""
    comments = dict(field_comments(inspect.getsource(cls)))
    if issubclass(cls, BaseModel):
        comments |= {name: info.description for name, info in cls.model_fields.items() if info.description}
    return comments


def field_comments(source: str) -> Iterator[tuple[str, str]]:
    """Yield each annotated field of a class with the comment beside it, or else with the one above it."""
    source = textwrap.dedent(source)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {
        token.start[0]: token
        for token in tokens
        if token.type == tokenize.COMMENT and not token.string.startswith("# fmt:")
    }
    whole_lines = {line for line, token in comments.items() if token.line.lstrip().startswith("#")}
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        lines = [
            line for line in range(node.lineno, (node.end_lineno or node.lineno) + 1) if line in comments
        ]
        if not lines:
            above = node.lineno - 1
            while above in whole_lines:
                lines.insert(0, above)
                above -= 1
        text = " ".join(comments[line].string.lstrip("# ") for line in lines)
        if text:
            yield node.target.id, text


# --- recipes ---------------------------------------------------------------------------------------


def recipe_sections() -> str:
    """Return one section for each part of a recipe: its docstring, and a table of fields with defaults."""
    parts: list[tuple[str, type[BaseModel]]] = [("", Recipe)]
    _find_sections(Recipe, "", parts)
    return "\n\n".join(_recipe_section(name, section) for name, section in parts)


def _find_sections(section: type[BaseModel], prefix: str, parts: list[tuple[str, type[BaseModel]]]) -> None:
    """Add the sections inside a section to `parts`, each one once, under its shortest name."""
    added = []
    for name, info in section.model_fields.items():
        inner = _section_of(info.annotation)
        if inner is not None and inner not in [known for _, known in parts]:
            parts.append((f"{prefix}{name}", inner))
            added.append(parts[-1])
    for name, inner in added:
        _find_sections(inner, f"{name}.", parts)


def _section_of(hint: Any) -> type[BaseModel] | None:
    for part in (hint, *typing.get_args(hint)):
        if inspect.isclass(part) and issubclass(part, BaseModel):
            return part
    return None


def _recipe_section(name: str, section: type[BaseModel]) -> str:
    comments = dict(field_comments(inspect.getsource(section)))
    hints = typing.get_type_hints(section)
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field, info in section.model_fields.items():
        inner = _section_of(info.annotation)
        if inner is not None:
            kind = f"[{inner.__name__.removesuffix('Config').lower()}](#{_anchor(inner)})"
            default = "none" if info.default is None else ""
        else:
            kind = json_type(hints[field]).replace("null", "none")
            default = "" if info.is_required() else f"`{_toml(info.default)}`"
        meaning = comments.get(field, "").replace("None", "none").replace("|", "\\|")
        lines.append(f"| `{field}` | {kind} | {default} | {meaning} |")
    title = f"[{name}]" if name else "At the top"
    about = inspect.cleandoc(section.__doc__ or "")
    anchor = _anchor(section)
    return f"## {title} {{ #{anchor} }}\n\n{about}\n\n" + "\n".join(lines)


def _anchor(section: type[BaseModel]) -> str:
    return section.__name__.removesuffix("Config").lower()


def _toml(value: Any) -> str:
    """Return a default as a recipe writes it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return json.dumps(value)


# --- the command line ------------------------------------------------------------------------------


def cli_pages() -> dict[str, str]:
    """Return the Markdown of each verb by its name, as `typer utils docs` writes it; "" is the overview."""
    command = [sys.executable, "-m", "typer", CLI, "utils", "docs", "--name", "emodistill"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    overview, *verbs = re.split(r"^(?=## `emodistill [\w-]+`\n)", done.stdout, flags=re.M)
    pages, first_lines = {}, {}
    for text in verbs:
        found = re.match(r"## `emodistill (?P<verb>[\w-]+)`\n+(?P<first>.*)", text)
        assert found is not None
        first_lines[found["verb"]] = found["first"]
        pages[found["verb"]] = _readable(re.sub(r"^#(?=#)", "", text, flags=re.M))
    rows = [f"* [`{verb}`]({verb}.md): {line}" for verb, line in first_lines.items()]
    introduction = overview.replace("# `emodistill`", "# Command line", 1).split("**Commands**")[0]
    return {"": _readable(introduction) + "## Verbs\n\n" + "\n".join(rows) + "\n", **pages}


def _readable(text: str) -> str:
    """Return the text with blocks of code for its examples, and code for options in sentences."""
    paragraphs = []
    for paragraph in re.split(r"\n{2,}", text.strip()):
        found = re.match(r"Example: (?P<command>.*)", paragraph, flags=re.S)
        if found or paragraph.startswith("emodistill "):
            lines = (found["command"] if found else paragraph).splitlines()
            paragraphs.append("```console\n" + "\n".join(f"$ {line.strip()}" for line in lines) + "\n```")
        elif paragraph.startswith(("#", "```", "*")):
            paragraphs.append(paragraph)
        else:
            paragraphs.append(re.sub(r"(?<![`\w-])(--[a-z][\w-]*)", r"`\1`", paragraph))
    return "\n\n".join(paragraphs) + "\n\n"
