"""Let a causal language model write: continue texts, or answer in conversations.

    python -m examples.generate --model=runs/lm/adamw --prompt="Return the hour."
    python -m examples.generate --model=runs/chats/adamw --chat --prompt="What is a monad?" --temperature=0.7
    python -m examples.generate --model=path/to/llama --data=questions.jsonl --output=answers.jsonl

``--model`` is a run of ``finetune_lm`` or ``pretrain``, or any model in the Hugging Face layout. Rows of
``--data`` have a ``prompt``, or ``messages`` that the chat template of the model writes, as in ``finetune_lm``.
The answers go to the screen, or with what was given to a file, a row of JSON for each.
"""

import json
from pathlib import Path

from examples.data import chat_template, prompts, tables
from examples.models import decoders, generation, pretrained
from examples.models.tensors import CONFIG
from examples.models.writer import Writer
from examples.shared import command, new_file, program_flags
from examples.shared.run_folders import MODEL, refuse_several
from optimiz import compare, training

FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", None, "Directory of a run or a model, or a Hub id.", required=True)
_PROMPT = FLAGS.DEFINE_string("prompt", None, "Text to continue.")
_CHAT = FLAGS.DEFINE_bool("chat", False, "The prompt is what a user says, for the chat template.")
_DATA = FLAGS.DEFINE_path("data", None, "Several prompts, or conversations: .jsonl, .csv, .parquet.")
_DELIMITER = FLAGS.DEFINE_string("delimiter", None, "Delimiter of a .csv, such as ';'; default: a comma.")
_ENCODING = FLAGS.DEFINE_string("encoding", None, "Encoding of --data; default: UTF-8.")
_TOKENS = FLAGS.DEFINE_integer("tokens", 64, "Tokens to write, at the most.", lower_bound=1)
_TEMPERATURE = FLAGS.DEFINE_float("temperature", 0.0, "0 takes the most likely token, 1 draws as learned.")
_TOP_P = FLAGS.DEFINE_float("top_p", 1.0, "Draw from the likeliest tokens of this probability.")
_SEED = FLAGS.DEFINE_integer("seed", 0, "Of what is drawn.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "File to write, .jsonl; default: the screen.")
program_flags.check(lambda x: 0 < x <= 1, "must be in (0, 1]", _TOP_P)
program_flags.check_together(
    lambda x: (x["prompt"] is None) != (x["data"] is None), "give --prompt or --data", FLAGS, _PROMPT, _DATA
)
program_flags.check_together(
    lambda x: not x["chat"] or x["data"] is None, "--chat is for --prompt", FLAGS, _CHAT, _DATA
)


def questions(model: Path) -> list[prompts.Question]:
    """What the flags ask for."""
    template = chat_template.read(model)
    if _DATA.value is not None:
        how = tables.Format(delimiter=_DELIMITER.value, encoding=_ENCODING.value, argument="--{}=")
        return prompts.read_questions(_DATA.value, template, how)
    given = (
        {"messages": [{"role": "user", "content": _PROMPT.value}]} if _CHAT.value else {"prompt": _PROMPT.value}
    )
    return [prompts.question(given, template, "--prompt")]


def main() -> None:
    """Read the prompts, and write the answers."""
    output = None if _OUTPUT.value is None else Path(_OUTPUT.value)
    if output is not None:
        new_file.check(output)
    refuse_several("model", Path(_MODEL.value), f"{MODEL}/{CONFIG}")
    model = pretrained.find(_MODEL.value)
    decoders.family(model)  # before the prompts, which may need a template that other models do not have
    asked, heat = questions(model), _TEMPERATURE.value
    choose = generation.sampled(heat, _TOP_P.value) if heat else generation.greedy
    writer = Writer(model, _TOKENS.value, choose)
    texts, places = [question.text for question in asked], [question.place for question in asked]
    answers = writer(texts, whole=asked[0].is_whole, seed=_SEED.value, places=places)
    found = list(zip(asked, answers, strict=True))
    if output is None:
        for _, answer in found:
            print("\n".join(map(compare.shown, answer.split("\n"))), flush=True)
        return
    rows = [{**question.given, "answer": answer} for question, answer in found]
    training.write_whole(output, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


if __name__ == "__main__":
    command.run(main, FLAGS)
