"""A prompt format as a chat template (Jinja), for programs that know no other way to be told how turns become text.

It renders what `engine.prompts` renders for texts that hold no role markers.
"""

import json

from engine.prompts import Format, PlainFormat, PromptFormat


def of(form: Format, system: str, bos: str) -> str | None:
    """The template of a format, None for that of the tokenizer itself. `system` is the text of conversations that bring none, `bos` what
    stands before every text."""
    match form:
        case PromptFormat():
            return _turns(form, system or form.system, bos)
        case PlainFormat():
            return f"{{{{ {_text(bos)} }}}}" + _PLAIN
    return None


_PLAIN = "{% for message in messages %}{{ '' if loop.first else '\\n\\n' }}{{ message['content'] }}{% endfor %}"


def _turns(form: PromptFormat, system: str, bos: str) -> str:
    before_system, after_system = form.system_template.split("{text}")
    before_user, after_user = form.user.split("{text}")
    return (
        f"{{{{ {_text(bos)} }}}}"
        f"{{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else {_text(system)} %}}"
        f"{{% if system %}}{{{{ {_text(before_system)} + system + {_text(after_system)} }}}}{{% endif %}}"
        "{% for message in messages if message['role'] != 'system' %}"
        f"{{% if message['role'] == 'user' %}}{{{{ ('' if loop.first else {_text(form.between)}) + {_text(before_user)} + message['content'] + {_text(after_user)} }}}}"
        f"{{% else %}}{{{{ {_text(form.answer + form.lead)} + message['content'] }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {_text(form.answer)} }}}}{{% endif %}}"
    )


def _text(value: str) -> str:
    """A string as Jinja writes it."""
    return json.dumps(value, ensure_ascii=False)
