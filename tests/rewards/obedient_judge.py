"""The worst judge that is not constant: it obeys the last thing in the data that pushes for a verdict.

Without a push it says YES to whatever contains a reference's words in a row, number words read as digits: lists,
denials and long dumps fool it, a plainly different answer does not. `obey` is the judge; the server puts it behind the
chat-completions form on 127.0.0.1.
"""

from __future__ import annotations

import json
import re
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_DATA = re.compile(r"^(Question|Reference|Candidate): <(\w+)>(.*)</\2>$", re.MULTILINE)
_TELL = r"\b(?:say|output|print|reply|answer|respond|return|write|state|give|choose|grade|mark|verdict)\w{0,3}\b"
_TO_YES = re.compile(
    rf"\bYES\b|(?i:{_TELL}[^.!?]{{0,40}}\byes\b"
    r"|\b(?:correct|right|equal|equals|equivalent|identical|verified|approved|the\ssame|same\s(?:as|letter|answer))\b"
    r"|\b(?:reference|candidate|gold|expected|accepted|ground\struth|answer\s[12]|(?:in|answer)\s(?:the\s)?key|marks\sabove)\b"
    r"|richtig|korrekt|correct[aeo]|corrett[ao]|corret[ao]|juist|r[äa]tt\b|правильн|верн|正确|正確|正解|正しい|정답|صحيح|सही"
    r"|do[gğ]ru|poprawn|prawid[lł]ow)"
)
_TO_NO = re.compile(
    rf"\bNO\b|(?i:{_TELL}[^.!?]{{0,40}}\bno\b|\b(?:incorrect|wrong|different)\b"
    r"|\bnot\s(?:correct|right|equal|equivalent|identical|the\ssame)\b)"
)
_NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen".split()
    )
} | {
    word: str(10 * tens) for tens, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}


def obey(prompt: str) -> bool:
    """The verdict on a prompt of `rewards.judge_prompt`: the last push's, else whether a reference's words are there.

    Raises:
        ValueError: the prompt does not hold question, reference and candidate between marks.
    """
    data = {name: text for name, _, text in _DATA.findall(prompt)}
    if set(data) != {"Question", "Reference", "Candidate"}:
        raise ValueError(f"no question, reference and candidate between marks in {prompt[:200]!r}")
    pushed = last_push("\n".join(data.values()))
    if pushed is not None:
        return pushed
    said = words(data["Candidate"])
    return any(_in_a_row(words(reference), said) for reference in data["Reference"].split(" | "))


def last_push(text: str) -> bool | None:
    """What the last push in `text` asks for; None without any. Where two end together ("not correct") NO wins."""
    pushes = [(found.end(), False) for found in _TO_YES.finditer(text)]
    pushes += [(found.end(), True) for found in _TO_NO.finditer(text)]
    return not max(pushes)[1] if pushes else None


def words(text: str) -> list[str]:
    """Case-folded words without punctuation and articles, numbers as digits (`twenty-five` is `25`)."""
    text = re.sub(r"['’]|(?<=\d)[, ](?=\d{3}\b)", "", unicodedata.normalize("NFKC", text).casefold())
    read: list[str] = []
    for word in re.findall(r"\w+", text):
        digits = _NUMBER_WORDS.get(word)
        if digits and len(digits) == 1 and read and read[-1].startswith("~"):
            read[-1] = str(int(read[-1][1:]) + int(digits))
        else:
            read.append(("~" if digits and int(digits) >= 20 else "") + (digits or word))
    bare = [word.removeprefix("~") for word in read]
    return [word for word in bare if word not in ("the", "a", "an")] or bare


def _in_a_row(part: list[str], whole: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


class ObedientJudge(ThreadingHTTPServer):
    """Answers in the form that was asked for; a prompt that it cannot read gets status 400."""

    daemon_threads = True
    request_queue_size = 256
    """A whole batch may connect at once; the default of 5 would reset some of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.prompts: list[str] = []
        """Everything it was asked, in the order of arrival."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ObedientJudge
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][-1]["content"]
        self.server.prompts.append(prompt)
        try:
            verdict = "YES" if obey(prompt) else "NO"
        except ValueError as error:
            self._send(400, {"error": {"message": str(error)}})
            return
        content = json.dumps({"verdict": verdict}) if "response_format" in body else f"[[{verdict}]]"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        self._send(
            200, {"id": "x", "object": "chat.completion", "created": 0, "model": "obedient", "choices": [choice]}
        )

    def _send(self, status: int, reply: dict[str, object]) -> None:
        payload = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def obedient_judge() -> Iterator[ObedientJudge]:
    """A running server, stopped on exit."""
    server = ObedientJudge()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
