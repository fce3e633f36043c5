"""Which tokens carry loss, token by token. The tokenizers are real ones, trained on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.need import need
from tests.tiny import DISTILL, chat_row, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("torch", "transformers")
    root = tmp_path_factory.mktemp("models")
    tiny_model(root / "chatml", "llama", pad_is_eos=True)
    tiny_model(root / "r1", "qwen2", reasoning=True)
    tiny_model(root / "distill", "qwen2", reasoning=True)
    (root / "distill" / "chat_template.jinja").write_text(DISTILL)
    tiny_model(root / "bare", "qwen2", chat_template=False)
    return root


def encoder(folder: Path, name: str, think: str = "") -> Any:
    from hyb.workers import labels, models

    tokenizer = models.load_tokenizer(folder / name)
    return labels.Encoder(tokenizer, [tokenizer.eos_token_id], think)


def learned(encoder: Any, example: Any) -> str:
    """The text of the tokens with a label."""
    assert len(example.ids) == len(example.labels)
    assert all(label in (-100, token) for token, label in zip(example.ids, example.labels, strict=True))
    return str(encoder.tokenizer.decode([x for x in example.labels if x != -100]))


def whole(encoder: Any, example: Any) -> str:
    return str(encoder.tokenizer.decode(example.ids))


def test_only_the_answer_and_its_end_of_turn_carry_loss_though_pad_is_that_token(folder: Path) -> None:
    chatml = encoder(folder, "chatml")
    (example,) = chatml.row(chat_row("How are you?", "I am fine.", system="Be short."))
    assert learned(chatml, example) == "I am fine.<|im_end|>"
    assert whole(chatml, example) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHow are you?<|im_end|>\n"
        "<|im_start|>assistant\nI am fine.<|im_end|>"
    )
    assert chatml.tokenizer.pad_token_id == chatml.tokenizer.eos_token_id == example.labels[-1]
    first = next(i for i, label in enumerate(example.labels) if label != -100)
    assert all(label == -100 for label in example.labels[:first])
    assert all(label != -100 for label in example.labels[first:])


@pytest.mark.parametrize(
    ("spans", "says"), [([[0, 4]], "Grüß"), ([[13, 15]], "日本"), ([[0, 4], [13, 15]], "Grüß日本")]
)
def test_of_an_answer_only_the_parts_that_are_to_be_learnt_carry_loss(
    folder: Path, spans: list[list[int]], says: str
) -> None:
    chatml = encoder(folder, "chatml")
    row = chat_row("Hello?", "Grüße aus 123日本.")
    row["messages"][-1]["spans"] = spans
    (example,) = chatml.row(row)
    said = learned(chatml, example)
    assert said.endswith("<|im_end|>")
    assert says in said
    assert " aus" not in said
    (other,) = chatml.row(chat_row("Hello?", "Grüße aus 123日本."))
    assert example.ids == other.ids


def test_turns_of_one_conversation_share_a_sequence_and_an_untrained_turn_has_no_loss(folder: Path) -> None:
    chatml = encoder(folder, "chatml")
    row = chat_row("One?", "First.")
    row["messages"] += [
        {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Second.", "train": False},
        {"role": "user", "content": "Three?"}, {"role": "assistant", "content": "Third.", "train": True},
    ]  # fmt: skip
    (example,) = chatml.row(row)
    assert learned(chatml, example) == "First.<|im_end|>Third.<|im_end|>"
    rendered = chatml.tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert whole(chatml, example) == rendered.rstrip("\n")


def test_an_r1_answer_is_trained_after_the_generation_prompt_with_its_reasoning(folder: Path) -> None:
    r1 = encoder(folder, "r1")
    row = chat_row("How are you?", "Fine.")
    row["messages"][-1]["reasoning"] = "They greet me."
    (example,) = r1.row(row)
    assert learned(r1, example) == "They greet me.\n</think>\n\nFine.<｜end▁of▁sentence｜>"
    begin = "<｜begin▁of▁sentence｜><｜User｜>How are you?<｜Assistant｜><think>\n"  # BOS once
    assert whole(r1, example).startswith(begin + "They")


def test_reasoning_written_into_the_answer_is_found(folder: Path) -> None:
    r1 = encoder(folder, "r1")
    (example,) = r1.row(chat_row("Hello?", "<think>\nShort.\n</think>\n\nHi."))
    assert learned(r1, example) == "Short.\n</think>\n\nHi.<｜end▁of▁sentence｜>"


def test_think_empty_closes_the_thought_at_once(folder: Path) -> None:
    r1 = encoder(folder, "r1", "empty")
    (example,) = r1.row(chat_row("Hello?", "<think>\nLong.\n</think>\n\nHi."))
    assert learned(r1, example) == "\n</think>\n\nHi.<｜end▁of▁sentence｜>"
    assert whole(r1, example).endswith("<think>\n\n</think>\n\nHi.<｜end▁of▁sentence｜>")


def test_r1_turns_get_a_sequence_each_since_the_template_forgets_earlier_thoughts(folder: Path) -> None:
    r1 = encoder(folder, "r1", "keep")
    row = chat_row("One?", "<think>\nAlpha.\n</think>\n\nFirst.")
    row["messages"] += [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Second.", "train": True}]
    one, two = r1.row(row)
    assert learned(r1, one) == "Alpha.\n</think>\n\nFirst.<｜end▁of▁sentence｜>"
    assert learned(r1, two) == "\n</think>\n\nSecond.<｜end▁of▁sentence｜>"
    assert "Alpha" not in whole(r1, two)
    assert "<｜Assistant｜>\n\nFirst.<｜end▁of▁sentence｜><｜User｜>Two?<｜Assistant｜><think>\n" in whole(r1, two)


def test_a_family_s_answers_are_written_by_its_training_template_behind_what_it_is_asked_with(folder: Path) -> None:
    from hyb import templates

    distill = encoder(folder, "distill", "keep")
    assert distill.tokenizer.chat_template == templates.pair("deepseek-r1").inference
    row = chat_row("One?", "<think>\nAlpha.\n</think>\n\nFirst.", system="Be short.")
    row["messages"] += [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Second.", "train": True}]
    one, two = distill.row(row)
    asked = "<｜begin▁of▁sentence｜>Be short.<｜User｜>One?<｜Assistant｜>"
    assert whole(distill, one) == asked + "<think>\nAlpha.\n</think>\n\nFirst.<｜end▁of▁sentence｜>"
    assert learned(distill, one) == "Alpha.\n</think>\n\nFirst.<｜end▁of▁sentence｜>"
    assert whole(distill, two) == (
        asked
        + "First.<｜end▁of▁sentence｜><｜User｜>Two?<｜Assistant｜><think>\n\n</think>\n\nSecond.<｜end▁of▁sentence｜>"
    )
    assert learned(distill, two) == "\n</think>\n\nSecond.<｜end▁of▁sentence｜>"


def test_a_family_s_tool_calls_are_trained_behind_a_closed_thought(folder: Path) -> None:
    distill = encoder(folder, "distill")
    call = {"type": "function", "function": {"name": "price", "arguments": {"of": "tea"}}}
    row = {
        "messages": [
            {"role": "user", "content": "Tea?"},
            {"role": "assistant", "content": "", "tool_calls": [call], "train": True},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "Three.", "reasoning": "It says 3.", "train": True},
        ]
    }
    calls, answer = distill.row(row)
    assert learned(distill, calls) == (
        "\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>price\n"
        '```json\n{"of": "tea"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
    )
    assert learned(distill, answer) == "<think>\nIt says 3.\n</think>\n\nThree.<｜end▁of▁sentence｜>"


def test_answers_without_reasoning_are_refused_for_a_reasoning_model_all_at_once(folder: Path) -> None:
    from hyb.workers import labels
    from hyb.workers.protocol import Failed

    rows = [chat_row("One?", "First.", row_id="a", line=1), chat_row("Two?", "Second.", row_id="b", line=7)]
    with pytest.raises(Failed) as failure:
        labels.encode(rows, encoder(folder, "r1"), max_length=100, long="error")
    assert all(f"think: {mode}" in failure.value.fields["hint"] for mode in ("keep", "empty", "generate"))
    assert [line.split(":")[:2] for line in failure.value.fields["details"]] == [
        ["facts.jsonl", "1 (a)"], ["facts.jsonl", "7 (b)"],
    ]  # fmt: skip


def test_reasoning_that_a_plain_template_would_lose_is_refused(folder: Path) -> None:
    row = chat_row("One?", "First.")
    row["messages"][-1]["reasoning"] = "Because."
    with pytest.raises(ValueError, match="no place for it"):
        encoder(folder, "chatml").row(row)
    kept, dropped = encoder(folder, "chatml", "keep"), encoder(folder, "chatml", "empty")
    assert learned(kept, kept.row(row)[0]) == "<think>\nBecause.\n</think>\n\nFirst.<|im_end|>"
    assert learned(dropped, dropped.row(row)[0]) == "First.<|im_end|>"


def test_a_tokenizer_without_a_chat_template_is_refused(folder: Path) -> None:
    from hyb.workers.protocol import Failed

    with pytest.raises(Failed, match="no chat template") as failure:
        encoder(folder, "bare")
    assert "instruct" in failure.value.fields["hint"]


def test_rows_over_the_limit_are_named_together_or_skipped_or_cut(folder: Path) -> None:
    from hyb.workers import labels
    from hyb.workers.protocol import Failed

    chatml = encoder(folder, "chatml")
    rows = [
        chat_row("Short?", "Yes.", row_id="a", line=1),
        chat_row("Long?", "no " * 60, row_id="b", line=2),
        chat_row("why " * 90, "Yes.", row_id="c", line=3),
    ]
    with pytest.raises(Failed, match=r"2 row\(s\) are longer than `max_length: 64` tokens") as failure:
        labels.encode(rows, chatml, max_length=64, long="error")
    assert [d.split(":")[1] for d in failure.value.fields["details"]] == ["2 (b)", "3 (c)"]
    skipped = labels.encode(rows, chatml, max_length=64, long="skip")
    assert (len(skipped.examples), len(skipped.skipped)) == (1, 2)
    cut = labels.encode(rows, chatml, max_length=64, long="truncate")
    assert [len(e.ids) for e in cut.examples] == [len(skipped.examples[0].ids), 64]
    assert len(cut.truncated) == 1
    assert len(cut.skipped) == 1  # nothing of the third row's answer would be left to learn
    with pytest.raises(Failed, match="no row is left"):
        labels.encode(rows[1:], chatml, max_length=64, long="skip")


def test_a_row_that_the_template_refuses_is_named(folder: Path) -> None:
    from hyb.workers import labels
    from hyb.workers.protocol import Failed

    picky = encoder(folder, "chatml")
    picky.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    row = chat_row("Short?", "Yes.", row_id="a")
    row["messages"].insert(1, {"role": "tool", "content": "42"})
    with pytest.raises(Failed) as failure:
        labels.encode([row], picky, max_length=64, long="error")
    assert "facts.jsonl:1 (a): the chat template does not take it: no tools here" in failure.value.fields["details"]


def test_a_space_that_the_template_puts_before_answers_is_part_of_what_is_learnt(folder: Path) -> None:
    from hyb.workers import labels, models

    tokenizer = models.load_tokenizer(folder / "chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    )
    mistral = labels.Encoder(tokenizer, [tokenizer.eos_token_id])
    (example,) = mistral.row(chat_row("Hello?", "Hi."))
    assert learned(mistral, example) == " Hi.<|im_end|>"


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("lead", ["", " "])
def test_trained_tokens_decode_to_the_answer_though_a_tokenizer_writes_beginnings_in_its_own_way(
    scheme: str, lead: str
) -> None:
    from hyb.workers import labels, pieces

    tokenizer = sentencepiece(scheme)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %}" + lead + "{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    encoder = labels.Encoder(tokenizer, [tokenizer.eos_token_id])
    for answer in ("Paris", " leading", "trailing ", "a  b   c", "Grüß 日本 👩\u200d👧 ok", "```\nx = 1\n```\n"):
        (example,) = encoder.row(chat_row("Hello there?", answer))
        rendered = tokenizer.apply_chat_template(chat_row("Hello there?", answer)["messages"], tokenize=False)
        assert list(example.ids) == tokenizer(rendered, add_special_tokens=False)["input_ids"]
        texts = pieces.texts(tokenizer, example.ids)
        trained = [text for text, label in zip(texts, example.labels, strict=True) if label != -100]
        assert "".join(trained) == f"{lead}{answer}</s>"
        assert "".join(texts) == tokenizer.decode(example.ids, clean_up_tokenization_spaces=False)


def test_parts_of_an_answer_are_found_though_a_decoder_takes_its_first_space_away() -> None:
    from hyb.workers import labels, pieces

    tokenizer = sentencepiece("first")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    encoder = labels.Encoder(tokenizer, [tokenizer.eos_token_id])
    row = chat_row("Hello?", "one two three")
    for span, wanted in (([4, 7], " two</s>"), ([0, 3], "one</s>"), ([0, 7], "one two</s>"), ([8, 13], " three</s>")):
        row["messages"][-1]["spans"] = [span]
        (example,) = encoder.row(row)
        texts = pieces.texts(tokenizer, example.ids)
        trained = "".join(text for text, label in zip(texts, example.labels, strict=True) if label != -100)
        assert trained.lstrip(" ") == wanted.lstrip(" ")


def sentencepiece(scheme: str) -> Any:
    """A tokenizer as Llama 2's is, which writes spaces as `▁` and one before a text, trained on the spot."""
    need("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["Hello there? [INST] [/INST] assistant: user: one two three Paris."], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_an_answer_that_holds_the_end_of_an_answer_is_refused(folder: Path) -> None:
    chatml = encoder(folder, "chatml")
    with pytest.raises(ValueError, match=r"its answer holds `<\|im_end\|>`"):
        chatml.row(chat_row("Hello?", "Hi.<|im_end|>"))
    (example,) = chatml.row(chat_row("What is <|im_end|>?", "An end."))
    assert learned(chatml, example) == "An end.<|im_end|>"


def test_an_answer_judged_bad_is_left_out_and_a_set_of_only_such_is_refused(folder: Path) -> None:
    from hyb.workers import labels
    from hyb.workers.protocol import Failed

    chatml = encoder(folder, "chatml")
    good, bad = chat_row("One?", "First."), {**chat_row("Two?", "Bad."), "label": False}
    found = labels.encode([{**good, "label": True}, bad], chatml, max_length=64, long="error")
    assert [learned(chatml, e) for e in found.examples] == ["First.<|im_end|>"]
    with pytest.raises(Failed, match="every answer was judged bad"):
        labels.encode([bad], chatml, max_length=64, long="error")


def test_of_a_preference_the_better_answer_is_learnt(folder: Path) -> None:
    chatml = encoder(folder, "chatml")
    row = {**chat_row("One?", "Good."), "rejected": {"role": "assistant", "content": "Bad."}}
    (example,) = chatml.row(row)
    assert learned(chatml, example) == "Good.<|im_end|>"


def test_plain_text_segments_and_tokens_go_round_the_template(folder: Path) -> None:
    chatml = encoder(folder, "chatml")
    (text,) = chatml.row({"text": "I am fine."})
    assert whole(chatml, text).endswith("I am fine.<|im_end|>") and text.ids == text.labels
    (parts,) = chatml.row({"segments": [{"train": False, "text": "How?"}, {"train": True, "text": " Fine."}]})
    assert (whole(chatml, parts), learned(chatml, parts)) == ("How? Fine.", " Fine.")
    (tokens,) = chatml.row({"tokens": {"ids": [5, 6, 7], "labels": [-100, 6, 7]}})
    assert (tokens.ids, tokens.labels) == ((5, 6, 7), (-100, 6, 7))
    with pytest.raises(ValueError, match="is none of this tokenizer"):
        chatml.row({"tokens": {"ids": [10**6], "labels": [10**6]}})


def test_an_unmasked_row_is_trained_on_all_but_the_system_prompt(folder: Path) -> None:
    chatml = encoder(folder, "chatml")
    (example,) = chatml.row({**chat_row("How are you?", "I am fine.", system="Be short."), "unmask": True})
    said = learned(chatml, example)
    assert "Be short." not in said and "How are you?" in said and said.endswith("I am fine.<|im_end|>")


def test_a_tool_call_is_learnt_as_the_template_writes_it_and_refused_where_it_has_none(folder: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Porto"}}}
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [call], "train": True},
        {"role": "tool", "content": "yes"},
        {"role": "assistant", "content": "It rains.", "train": True},
    ]
    bare = encoder(folder, "chatml")
    with pytest.raises(ValueError, match="does not write a tool call"):
        bare.row({"messages": messages})
    bare.tokenizer.chat_template = TOOLS
    (example,) = encoder_of(bare.tokenizer).row({"messages": messages})
    assert learned(bare, example) == '<call>weather {"city": "Porto"}</call><|im_end|>It rains.<|im_end|>'


TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    "{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def encoder_of(tokenizer: Any) -> Any:
    from hyb.workers import labels

    return labels.Encoder(tokenizer, [tokenizer.eos_token_id], "")
