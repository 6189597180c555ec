"""The linguistic teacher: a text encoder of transformers over the transcript, mean pooling, a classifier."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from emodistill.citations import Citation
from emodistill.config import LinguisticConfig
from emodistill.errors import ModelError
from emodistill.models.base import first_line, no_progress_bar, plain_config
from emodistill.models.layers import CosineClassifier, Output, frame_mask, make_regressor
from emodistill.models.pretrained import folder_or_id

SCRATCH = "scratch"  # names a small untrained encoder whose vocabulary is the words of the training split

_ACL = "Annual Meeting of the Association for Computational Linguistics (ACL)"
# The publications of text encoders by their model type in transformers. Others have none that is known here.
ENCODER_CITATIONS: Mapping[str, Citation] = {
    "bert": Citation(
        "devlin2019bert", "inproceedings",
        author="Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina",
        title="{BERT}: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        year=2019, booktitle="Conference of the North American Chapter of the Association for Computational "
        "Linguistics: Human Language Technologies (NAACL-HLT)",
        pages="4171--4186", doi="10.18653/v1/N19-1423",
    ),
    "roberta": Citation(
        "liu2019roberta", "misc",
        author="Liu, Yinhan and Ott, Myle and Goyal, Naman and Du, Jingfei and Joshi, Mandar and Chen, Danqi "
        "and Levy, Omer and Lewis, Mike and Zettlemoyer, Luke and Stoyanov, Veselin",
        title="{RoBERTa}: A Robustly Optimized {BERT} Pretraining Approach", year=2019, eprint="1907.11692",
    ),
    "xlm-roberta": Citation(
        "conneau2020xlmr", "inproceedings",
        author="Conneau, Alexis and Khandelwal, Kartikay and Goyal, Naman and Chaudhary, Vishrav and "
        "Wenzek, Guillaume and others",
        title="Unsupervised Cross-lingual Representation Learning at Scale", year=2020, booktitle=_ACL,
        pages="8440--8451", doi="10.18653/v1/2020.acl-main.747",
    ),
    "distilbert": Citation(
        "sanh2019distilbert", "misc",
        author="Sanh, Victor and Debut, Lysandre and Chaumond, Julien and Wolf, Thomas",
        title="{DistilBERT}, a distilled version of {BERT}: smaller, faster, cheaper and lighter", year=2019,
        eprint="1910.01108",
    ),
    "deberta-v2": Citation(
        "he2021deberta", "inproceedings",
        author="He, Pengcheng and Liu, Xiaodong and Gao, Jianfeng and Chen, Weizhu",
        title="{DeBERTa}: Decoding-enhanced {BERT} with Disentangled Attention", year=2021,
        booktitle="International Conference on Learning Representations (ICLR)", eprint="2006.03654",
    ),
    "mpnet": Citation(
        "song2020mpnet", "inproceedings",
        author="Song, Kaitao and Tan, Xu and Qin, Tao and Lu, Jianfeng and Liu, Tie-Yan",
        title="{MPNet}: Masked and Permuted Pre-training for Language Understanding", year=2020,
        booktitle="Advances in Neural Information Processing Systems", volume="33", eprint="2004.09297",
    ),
}  # fmt: skip


class LinguisticTeacher(nn.Module):
    """Maps token ids (batch, tokens) and numbers of tokens to an `Output`."""

    def __init__(
        self,
        config: LinguisticConfig,
        num_classes: int,
        encoder: Any,
        tokenizer: Any,
        dimensions: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.config, self.dimensions = config, tuple(dimensions)
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(encoder.config.hidden_size, config.embedding_dim)
        self.classifier = CosineClassifier(config.embedding_dim, num_classes)
        self.regressor = make_regressor(config.embedding_dim, self.dimensions)
        for part in self._frozen():
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "LinguisticTeacher":
        """Switch training mode; frozen layers stay in evaluation mode, without dropout."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        """Return the embeddings and lower layers that are not trained; raises `ModelError` if there are
        fewer.
        """
        if not self.config.frozen:
            return []
        stacks = [part for part in self.encoder.modules() if isinstance(part, nn.ModuleList)]
        layers = max(stacks, key=len, default=nn.ModuleList())
        if not hasattr(self.encoder, "embeddings") or self.config.frozen > len(layers):
            raise ModelError(
                f"linguistic.frozen = {self.config.frozen}, but '{self.config.encoder}' has {len(layers)} "
                "layers above embeddings that can be frozen: lower linguistic.frozen, or set it to 0"
            )
        return [self.encoder.embeddings, *layers[: self.config.frozen]]

    @classmethod
    def create(
        cls,
        config: LinguisticConfig,
        num_classes: int,
        transcripts: Sequence[str],
        dimensions: Sequence[str] = (),
    ) -> "LinguisticTeacher":
        """Make a teacher whose encoder is loaded from a hub id or folder, or is untrained for "scratch".

        `transcripts` are those of the training split; their words are the vocabulary of a "scratch" encoder.
        Raises `ModelError` if nothing can be loaded.
        """
        if config.encoder == SCRATCH:
            tokenizer = word_tokenizer(transcripts)
            shape = BertConfig(
                vocab_size=len(tokenizer), hidden_size=96, num_hidden_layers=2, num_attention_heads=4,
                intermediate_size=192, max_position_embeddings=config.max_tokens,
            )  # fmt: skip
            bert = BertModel(shape, add_pooling_layer=False)
            return cls(config, num_classes, bert, tokenizer, dimensions)
        where = folder_or_id(config.encoder, with_tokenizer=True)
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
            with no_progress_bar(where):
                encoder = AutoModel.from_pretrained(where, dtype=torch.float32, trust_remote_code=False)
        except Exception as error:  # transformers and torch raise errors of many kinds, such as for a pickle
            raise ModelError(
                f"text encoder '{config.encoder}' cannot be loaded: {first_line(error)} "
                "Give a folder (--set linguistic.encoder=DIR), 'scratch', or go online once."
            ) from error
        return cls(config, num_classes, encoder, tokenizer, dimensions)

    @classmethod
    def rebuild(
        cls,
        config: LinguisticConfig,
        num_classes: int,
        encoder: dict[str, Any],
        folder: Path,
        dimensions: Sequence[str] = (),
    ) -> "LinguisticTeacher":
        """Build the architecture with random weights; the tokenizer comes from the checkpoint `folder`."""
        if config.encoder == SCRATCH:
            model = BertModel(BertConfig(**plain_config(encoder)), add_pooling_layer=False)
        else:
            shape = AutoConfig.for_model(**plain_config(encoder))
            model = AutoModel.from_config(shape, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return cls(config, num_classes, model, tokenizer, dimensions)

    def tokenize(self, transcript: str) -> Tensor:
        """Return the token ids (tokens,) of a transcript, at most `max_tokens`."""
        ids = self.tokenizer(transcript, truncation=True, max_length=self.config.max_tokens)["input_ids"]
        return torch.tensor(ids, dtype=torch.long)

    @torch.no_grad()
    def word_vectors(self, words: Sequence[str]) -> dict[int, Tensor]:
        """Return the vector (width,) of each word in its sentence, by index: the mean of its tokens.

        `words` make up the sentence; an item may hold several. A word beyond `max_tokens`, or without tokens,
        has no vector.
        """
        sentence, ends = "", []
        for word in words:
            sentence = f"{sentence} {word}" if sentence else word
            ends.append(len(sentence))
        encoded = self.tokenizer(
            sentence, truncation=True, max_length=self.config.max_tokens, return_offsets_mapping=True
        )
        states = self.encoder(input_ids=torch.tensor([encoded["input_ids"]])).last_hidden_state[0]
        tokens: list[list[int]] = [[] for _ in words]
        for token, (start, end) in enumerate(encoded["offset_mapping"]):
            if end > start:  # special tokens are empty
                tokens[bisect_left(ends, end)].append(token)
        return {word: states[indices].mean(dim=0) for word, indices in enumerate(tokens) if indices}

    def forward(self, tokens: Tensor, lengths: Tensor | None) -> Output:
        """tokens : (batch, tokens); lengths : (batch,) in tokens, or None."""
        mask = frame_mask(lengths, tokens.shape[1])
        valid = torch.ones_like(tokens) if mask is None else mask.long()
        states = self.encoder(input_ids=tokens, attention_mask=valid).last_hidden_state
        pooled = (states * valid[:, :, None]).sum(dim=1) / valid.sum(dim=1, keepdim=True)
        embedding = F.normalize(self.embed(self.dropout(pooled)), dim=1)
        dimensions = None if self.regressor is None else self.regressor(embedding)
        return Output(self.classifier(embedding), embedding, dimensions=dimensions)


def word_tokenizer(transcripts: Sequence[str]) -> Any:
    """Return a tokenizer whose vocabulary is the words of `transcripts`, in lower case; other words are
    [UNK].
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(sorted(transcripts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
