"""Templates to texts: sandboxed, and an undefined name is an error, never an empty place.

The texts are files beside this module, `texts/<journey>/<language>/`. What they may say is the set
of names in `Facts`: no diagnosis, no specialty, no practitioner, no service, because a letter or an
SMS may be read by others.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache

from jinja2 import PackageLoader, StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from engagement.messages.domain import Channel


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a text can name. Times and days are written out already, in the patient's zone."""

    language: str
    greeting: str
    clinic: str
    preferences_url: str
    visited_on: str | None = None
    starts_at: str | None = None
    survey_url: str | None = None
    confirm_url: str | None = None
    cancel_url: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What leaves: an SMS has a text only."""

    text: str
    subject: str | None = None
    html: str | None = None


@lru_cache(maxsize=1)
def _environment() -> SandboxedEnvironment:
    return SandboxedEnvironment(
        loader=PackageLoader("engagement", "rendering/texts"),
        undefined=StrictUndefined,
        autoescape=lambda name: bool(name and name.endswith(".html")),
        auto_reload=False,
        keep_trailing_newline=False,
    )


@lru_cache(maxsize=256)
def _template(journey: str, language: str, part: str) -> Template:
    return _environment().get_template(f"{journey}/{language}/{part}")


def render(journey: str, channel: Channel, facts: Facts) -> Content:
    """The content of a message.

    Raises:
        jinja2.TemplateNotFound: There is no text for this journey and language.
        jinja2.UndefinedError: The text names a fact that this message does not have.
    """
    known = {name: value for name, value in asdict(facts).items() if value is not None}

    def part(name: str) -> str:
        return _template(journey, facts.language, name).render(known).strip()

    if channel is Channel.SMS:
        return Content(text=part("sms.txt"))
    subject = " ".join(part("subject.txt").split())
    return Content(text=part("body.txt") + "\n", subject=subject, html=part("body.html") + "\n")
